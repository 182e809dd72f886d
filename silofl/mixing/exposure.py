"""Which silos together learn another's message from the weighted sums that each of them reads in a round."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from silofl.mixing.mixing_matrices import Weights

MOST = 3
"""Silos of the largest coalition that is looked for."""
SMALL = 1e-9
"""What of a unit vector may be left outside of a span that has it, by rounding."""


def exposed(weights: Weights, silos: Sequence[int]) -> list[int]:
    """The nodes whose message, and no other's, is a combination of what nodes `silos` have and read.

    They have their own messages, and node i reads the sum of row i of `weights` (n, n).
    """
    others = [node for node in range(len(weights)) if node not in silos]
    rows = weights[np.ix_(list(silos), others)]
    basis = np.linalg.svd(rows, full_matrices=False)
    span = basis.Vh[basis.S > SMALL]
    left = 1.0 - (span**2).sum(axis=0)  # of each unit vector outside of the span, squared
    return [node for node, outside in zip(others, left, strict=True) if outside < SMALL]


def smallest_coalition(period: Sequence[Weights]) -> tuple[int, ...]:
    """The fewest nodes, up to `MOST`, that learn one more message in a round of a period; empty for none."""
    for size in range(1, MOST + 1):
        for silos in combinations(range(len(period[0])), size):
            if any(exposed(weights, silos) for weights in period):
                return silos
    return ()
