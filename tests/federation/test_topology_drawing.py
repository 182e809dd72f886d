"""`silofl check` draws who sends what to whom, counted in a trial round."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl import config as configuration
from silofl.federation import topology_drawing, traffic
from silofl.federation.dry_run import dry_run
from silofl.federation.topology_drawing import drawn
from silofl.federation.traffic import Edge
from silofl.topologies.arrangements.base import Arrangement
from silofl.topologies.arrangements.registry import ARRANGEMENTS
from tests.federation.threads import Normalized

KEYS = {"hierarchical": {"groups": [[0, 1], [2, 3, 4]]}}
ALL = {(a, b) for a in range(5) for b in range(5) if a != b}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_edges_have_all_that_is_sent(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[traffic.Sent] = []
    trial = traffic.TrialRound.sent

    def sent(self: traffic.TrialRound, spec: traffic.AggregationSpec) -> traffic.Sent:
        found.append(trial(self, spec))
        return found[-1]

    monkeypatch.setattr(traffic.TrialRound, "sent", sent)
    tables = {
        "run": {"dir": str(tmp_path)},
        "task": {"factory": f"{Normalized.__module__}:Normalized"},
        "topology": {"name": name, **KEYS.get(name, {})},
        "failure": {"policy": "shrink"},
    }
    config = configuration.parse(tables)
    rows = dry_run(config, 5).topology
    edges = found[-1].edges
    first = 1 if name == "star" else 0
    assert sum(edge.bytes for (source, _), edge in edges.items() if source == first) == found[-1].bytes
    assert min(edge.messages for edge in edges.values()) > 0
    assert rows
    if name == "gossip":
        near = {(a, b) for a, b in ALL if (a - b) % 5 in (1, 4)}
        assert set(edges) == ALL  # all sign who is in the sums
        assert max(edges[pair].bytes for pair in ALL - near) < 200 < min(edges[pair].bytes for pair in near)
    elif name == "star":
        assert edges.keys() >= {(0, silo) for silo in range(1, 5)} | {(silo, 0) for silo in range(1, 5)}
        assert "masked" in next(row.learnt for row in rows if row.edges == "each other -> 0")
    elif name == "sharded":
        assert [row.edges for row in rows] == ["each -> each other"]
        assert set(edges) == ALL


class Told(Arrangement):
    def __init__(self, told: dict[tuple[int, int], str]) -> None:
        self.told = told

    def sees(self, source: int, target: int, ranks: int, *, private: bool) -> str:
        return self.told.get((source, target), "")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (ALL, "each -> each other"),
        ({(2, other) for other in (0, 1, 3, 4)}, "2 -> each other"),
        ({(other, 2) for other in (0, 1, 3, 4)}, "each other -> 2"),
        ({(2, 0), (2, 1)}, "2 -> 0, 1"),
        ({(0, 4), (1, 4), (2, 4)}, "0 to 2 -> 4"),
        ({(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}, "each of 1 to 3 -> each other"),
        ({(0, 1), (1, 0), (2, 3)}, "0 <-> 1, 2 -> 3"),
        ({(0, 1)}, "0 -> 1"),
    ],
)
def test_edges_are_named_in_words(pairs: set[tuple[int, int]], said: str) -> None:
    rows = drawn(
        {pair: Edge(2, 10 * pair[0] + 10) for pair in pairs}, Told(dict.fromkeys(pairs, "x")), 5, private=True
    )
    assert [(row.edges, row.learnt, row.messages) for row in rows] == [(said, "x", (2, 2))]
    sources = {10 * source + 10 for source, _ in pairs}
    assert rows[0].bytes == (min(sources), max(sources))


def test_long_lists_are_cut_and_the_most_bytes_come_first() -> None:
    ring = {(a, (a + 1) % 9): Edge(1, 5) for a in range(9)} | {(0, 5): Edge(1, 50)}
    rows = drawn(ring, Told({(0, 5): "more"}), 9, private=False)
    assert [row.learnt for row in rows] == ["more", "nothing"]
    assert rows[1].edges.endswith(f", and {9 - topology_drawing.MOST} more")
