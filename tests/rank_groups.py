"""Groups of ranks for tests: named ones, and random ones in levels."""

from __future__ import annotations

from typing import Any

import numpy as np

TWO_OF_FOUR = ((0, 1, 2, 3), (4, 5, 6, 7))
GROUPINGS: list[Any] = [
    TWO_OF_FOUR,
    (((0, 1), (2, 3)), ((4, 5), (6, 7))),
    ((0, 3), (1, 2, 4)),
    (((0,), (3, 5)), (1, (2, 4))),
]
"""Also of unequal sizes and levels, with neighbours in other groups, and a rank beside a group."""


def nested(silos: list[int], rng: np.random.Generator, depth: int = 3) -> Any:
    """The silos in random groups of random groups."""
    if depth == 0 or len(silos) == 1:
        return tuple(silos)
    cuts = sorted(
        rng.choice(range(1, len(silos)), min(int(rng.integers(1, 4)), len(silos) - 1), replace=False)
    )
    parts = [part.tolist() for part in np.split(np.array(silos), cuts)]
    return tuple(nested(part, rng, depth - 1) for part in parts)
