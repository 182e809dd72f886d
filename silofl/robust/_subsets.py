"""All choices of n - f of n points, for rules that look for the best of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations

MOST = 50_000
"""Choices that are looked through in a round, in a second or so."""


def too_many(name: str, count: int, f: int) -> str | None:
    """Why n choose f are too many to look through, and what to do; None where they are not."""
    choices = math.comb(count, f)
    if choices <= MOST:
        return None
    return (
        f'robust.name = "{name}" looks through all {choices} choices of {count - f} of {count} updates, more '
        f'than {MOST}: set robust.name = "caf", or robust.mix = true with another rule, or lower robust.f'
    )


def best_subset(count: int, f: int, cost: Callable[[list[int]], tuple[float, ...]]) -> list[int]:
    """The choice of least cost, of equals the first in the order of the points."""
    every: Iterator[list[int]] = map(list, combinations(range(count), count - f))
    return min(every, key=cost)
