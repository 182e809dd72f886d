"""What a partitioner is, and the steps that several of them share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


class Partitioner(Protocol):
    """Deals the samples of one data set out to silos."""

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """`silos` index arrays, some perhaps empty, that together are 0..n-1 exactly once.

        Args:
            features: (n, d); only a feature-skewed partitioner looks at them.
            labels: integers (n,).
            silos: 1 <= silos <= n.
            rng: consumed; the only source of randomness.

        Raises:
            ConfigError: the partitioner's own options do not fit n and `silos`.
        """


def share_out(indices: Indices, shares: NDArray[np.float64], rng: np.random.Generator) -> list[Indices]:
    """Cut `indices` into consecutive runs, of n * shares[k] each, rounded up or down without bias.

    The cuts lie at floor(n * (shares[0] + ... + shares[k]) + u) with one u ~ U[0, 1), so the expected length
    of run k is exactly n * shares[k] and a lone sample goes to silo k with probability shares[k].
    """
    cuts = np.floor(len(indices) * np.cumsum(shares)[:-1] + rng.random()).astype(np.intp)
    return np.split(indices, np.minimum(cuts, len(indices)))


def shares(alpha: float, silos: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Proportions (silos,) ~ Dir(alpha, ..., alpha); above alpha = 1e12 they are equal to rounding."""
    return rng.dirichlet(np.full(silos, min(alpha, 1e12)))


def skew_groups(groups: list[Indices], alpha: float, silos: int, rng: np.random.Generator) -> list[Indices]:
    """Share every group out by its own draw of proportions ~ Dir(alpha)."""
    parts = [share_out(rng.permutation(group), shares(alpha, silos, rng), rng) for group in groups]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
