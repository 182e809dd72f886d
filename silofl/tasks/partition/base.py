"""What a partitioner is, and the steps that several of them share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Features = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]

LEAST_EXPECTED = 16
"""Of how many samples a silo's share is at least, in expectation, where all silos can have so many."""


class Records(NamedTuple):
    """The samples of one data set, and what is publicly known of it."""

    features: Features
    """(n, d), around a centre that is publicly known; only a feature-skewed partitioner looks at them."""
    labels: Labels
    """Integers (n,), 0 <= label < classes."""
    places: NDArray[np.float64]
    """(n,), in [0, 1): uniform, and a function of each sample's own values."""
    classes: int
    published: int
    """How many samples the data set is published with, whatever n is."""


class Partitioner(Protocol):
    """Deals the samples of one data set out to silos, each by its own values alone."""

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """The silo of each sample, (n,). A sample that is added, changed or removed moves no other.

        Args:
            records: the samples.
            silos: at least 1.
            rng: consumed in a way that no sample has a part in; the only other source of randomness.

        Raises:
            ConfigError: the partitioner's own options do not fit the data set and `silos`.
        """


def shares(
    alpha: float, groups: int, silos: int, published: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Proportions (groups, silos), each row ~ Dir(alpha, ..., alpha), mixed with equal ones by a little.

    So much that no silo's share is below that of `LEAST_EXPECTED` samples, or half of an equal one where
    that is less. Above alpha = 1e12 they are equal to rounding.
    """
    drawn = rng.dirichlet(np.full(silos, min(alpha, 1e12)), groups)
    least = min(LEAST_EXPECTED / published, 0.5 / silos)
    mixed: NDArray[np.float64] = (1 - silos * least) * drawn + least
    return mixed


def by_shares(places: NDArray[np.float64], shares: NDArray[np.float64], groups: Indices) -> Indices:
    """The silo of each sample (n,), of a group (n,) with these shares (groups, silos), by its place."""
    ends = np.cumsum(shares, axis=1)
    chosen = np.empty(len(places), np.intp)
    for group in np.unique(groups):
        mine = groups == group
        chosen[mine] = np.searchsorted(ends[group, :-1], places[mine], side="right")
    return chosen
