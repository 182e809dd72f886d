"""A run in which the server of a slice lies, the same to all silos: trap weights (Boenisch et al. 2023)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.secagg import SecAggSum
from silofl.config import Config
from silofl.errors import ProtocolError
from silofl.federation.recomputation import recomputations
from silofl.topologies.sharded_server import ShardedServer
from tests.federation.threads import federate, records, settings

SILOS, LIAR = 4, 2


def lie_in_round(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its slice of the model becomes what suits it."""
    honest, steps = ShardedServer._step, [0] * SILOS

    def step(self: Any, index: int, **more: Any) -> Any:
        after, state = honest(self, index, **more)
        if index == self._group.silo_id:
            steps[index] += 1
            if index == LIAR and steps[index] == number:
                after["model"] = np.ones_like(after["model"])
        return after, state

    monkeypatch.setattr(ShardedServer, "_step", step)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds whose sum of updates was opened, once for each silo."""
    rounds: list[int] = []
    honest = SecAggSum.open

    def opens(self: Any, contribution: Any, total: Any, number: int, *more: Any) -> Any:
        found = honest(self, contribution, total, number, *more)
        rounds.append(number)
        return found

    monkeypatch.setattr(SecAggSum, "open", opens)
    return rounds


def committed(path: Path) -> list[int]:
    return [json.loads(found.read_text())["round"] for found in sorted(path.rglob("manifest.json"))]


def test_the_run_ends_by_name_and_nothing_is_made_of_the_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int]
) -> None:
    lie_in_round(3, monkeypatch)
    ends = federate(settings(tmp_path), SILOS)
    assert all(isinstance(end, ProtocolError) for end in ends), ends
    assert {str(end) for end in ends} == {
        "silo 2's model of slice 2 and silo 3's recomputation of it differ: one of the two lies or computes "
        "wrongly; nothing was trained on it, and it is not committed"
    }
    assert {end.exit_code for end in ends} == {ProtocolError.exit_code}
    assert sorted(set(opened)) == [1, 2, 3]  # of what silos had from the model before
    assert max(committed(tmp_path)) == 2

    monkeypatch.undo()
    resumed = federate(settings(tmp_path), SILOS, resume=True)
    assert [line["round"] for line in records(tmp_path)] == [1, 2, 3, 4]
    assert len({end["model_sha256"] for end in resumed}) == 1


@pytest.mark.covering(0)
@pytest.mark.parametrize(("where", "name"), [("slices", "model"), ("strategy", "velocity")])
def test_a_resume_from_a_slice_of_its_own_making_ends_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int], where: str, name: str
) -> None:
    """A silo ends a run, and has it go on from what suits it."""
    lie_in_round(3, monkeypatch)
    federate(settings(tmp_path), SILOS)
    honest = ShardedServer.restore

    def restore(self: Any, state: Any, *more: Any, **options: Any) -> None:
        if self._group.silo_id == LIAR:
            state[where][name] = np.ones_like(state[where][name])
        honest(self, state, *more, **options)

    monkeypatch.setattr(ShardedServer, "restore", restore)
    opened.clear()
    ends = federate(settings(tmp_path), SILOS, resume=True)
    assert {str(end) for end in ends} == {
        f"silo 2's {name} of slice 2 and what silo 3 committed of its recomputation differ: "
        "one of the two lies or has another checkpoint; nothing was trained on it"
    }
    assert opened == []


def test_without_recomputation_nobody_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie_in_round(3, monkeypatch)
    ends = federate(settings(tmp_path, secure={"recompute": 0}), SILOS)
    assert all(isinstance(end, dict) for end in ends), ends


@pytest.mark.parametrize(
    ("tables", "silos", "expected"),
    [
        ({}, 4, 1),
        ({}, 2, 0),  # which is plain
        ({"secure": {"allow_two": True, "recompute": 2}}, 2, 1),
        ({"secure": {"recompute": 2}}, 3, 2),
        ({"secure": {"recompute": 0}}, 4, 0),
        ({"secure": {"protocol": "plain"}}, 4, 0),
        ({"secure": {"protocol": "additive"}}, 4, 0),
        ({"privacy": {"unit": "silo", "noise_multiplier": 1.0}}, 4, 1),
        ({"privacy": {"unit": "silo", "noise_multiplier": 1.0, "place": "central"}}, 4, 0),
    ],
)
def test_how_many_recompute(tables: dict[str, Any], silos: int, expected: int) -> None:
    assert recomputations(Config.model_validate(tables), silos) == expected
