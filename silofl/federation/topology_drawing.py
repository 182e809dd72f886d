"""Who sends what to whom in a round, and what the receiver learns: a topology as `silofl check` draws it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from silofl.federation.traffic import Edge, Edges
from silofl.report.dry_run_table import EdgeRow
from silofl.topologies.arrangements.base import Arrangement

Pair = tuple[int, int]
MOST = 6
"""Edges that are named one by one."""


def drawn(edges: Edges, arrangement: Arrangement, ranks: int, *, private: bool) -> list[EdgeRow]:
    """One row for all edges by which receivers learn the same, those with the most bytes first."""
    alike = defaultdict[str, list[Pair]](list)
    for source, target in sorted(edges):
        alike[arrangement.sees(source, target, ranks, private=private)].append((source, target))
    rows = [
        _row(_named(pairs, ranks), [edges[pair] for pair in pairs], learnt or "nothing")
        for learnt, pairs in alike.items()
    ]
    return sorted(rows, key=lambda row: -row.bytes[1])


def _row(name: str, edges: list[Edge], learnt: str) -> EdgeRow:
    messages, sent = [edge.messages for edge in edges], [edge.bytes for edge in edges]
    ranges = (min(messages), max(messages)), (min(sent), max(sent))
    return EdgeRow(name, *ranges, learnt, (sum(messages), sum(sent)))


def _named(pairs: Sequence[Pair], ranks: int) -> str:
    """The edges of `pairs`, in words where they are many of one kind."""
    found, sources, targets = set(pairs), {a for a, _ in pairs}, {b for _, b in pairs}
    if len(found) == ranks * (ranks - 1):
        return "each -> each other"
    if len(pairs) > 1 and len(sources) == 1:
        return f"{pairs[0][0]} -> {'each other' if len(pairs) == ranks - 1 else _listed(sorted(targets))}"
    if len(pairs) > 1 and len(targets) == 1:
        return f"{'each other' if len(pairs) == ranks - 1 else _listed(sorted(sources))} -> {pairs[0][1]}"
    if len(sources) > 1 and found == {(a, b) for a in sources for b in sources if a != b}:
        return f"each of {_listed(sorted(sources))} -> each other"
    both = [(a, b) for a, b in pairs if (b, a) in found and a < b]
    one_way = [pair for pair in pairs if pair[::-1] not in found]
    names = [f"{a} <-> {b}" for a, b in both] + [f"{a} -> {b}" for a, b in one_way]
    more = f", and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(names[:MOST]) + more


def _listed(ranks: list[int]) -> str:
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]} to {ranks[-1]}"
    return ", ".join(map(str, ranks))
