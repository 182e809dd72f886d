"""What `make test` runs of a family that has many members, and what it leaves to `make test-long`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import pytest


def mostly_long(rows: Sequence[Any], *kept: int) -> list[Any]:
    """`rows` as parameters of a test: those at `kept` in every run, the others in `make test-long` alone."""
    assert 0 <= min(kept) <= max(kept) < len(rows)
    single = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [
        pytest.param(*row, marks=[] if number in kept else pytest.mark.long)
        for number, row in enumerate(single)
    ]


def leave_rest_of_families(items: Iterable[pytest.Item]) -> None:
    """Mark as long what a family marked `covering(strength)` can do without.

    What stays covers every choice of values of any `strength` of its parameters together: a covering array
    (Kuhn, Kacker and Lei, *Practical Combinatorial Testing*, NIST SP 800-142), made greedily, in the order of
    the members. With 0, one member; with 1, every value of each parameter; with 2, every pair of values of
    two.
    """
    families = defaultdict[str, list[pytest.Function]](list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("covering") and not _is_long(item):
            families[item.nodeid.partition("[")[0]].append(item)
    for members in families.values():
        marker = members[0].get_closest_marker("covering")
        assert marker is not None
        values = [{name: id(v) for name, v in member.callspec.params.items()} for member in members]
        kept = covering(values, *marker.args)
        for number, member in enumerate(members):
            if number not in kept:
                member.add_marker(pytest.mark.long)


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def covering(members: Sequence[dict[str, int]], strength: int) -> set[int]:
    """Which members, given by what tells each parameter's values apart, are enough: see above."""
    tuples = [set(combinations(sorted(one.items()), min(strength, len(one)))) for one in members]
    missing, kept = set().union(*tuples), set[int]()
    while missing:
        best = max(range(len(members)), key=lambda number: len(tuples[number] & missing))
        kept.add(best)
        missing -= tuples[best]
    return kept
