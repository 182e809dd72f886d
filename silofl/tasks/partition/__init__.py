"""How built-in data is dealt out to silos: each sample to exactly one, by the seed alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from silofl.config import DataConfig
from silofl.errors import ConfigError
from silofl.tasks.partition.base import Features, Indices, Labels, Partitioner
from silofl.tasks.partition.dirichlet import Dirichlet
from silofl.tasks.partition.feature_skew import FeatureSkew
from silofl.tasks.partition.iid import Iid
from silofl.tasks.partition.label_shards import Shards
from silofl.tasks.partition.quantity import Quantity

__all__ = [
    "PARTITIONERS",
    "Dirichlet",
    "FeatureSkew",
    "Iid",
    "Partitioner",
    "Quantity",
    "Shards",
    "partition",
]

PARTITIONERS: dict[str, Callable[[DataConfig], Partitioner]] = {
    "iid": lambda data: Iid(),
    "dirichlet": lambda data: Dirichlet(data.alpha),
    "shards": lambda data: Shards(data.shards_per_silo),
    "quantity": lambda data: Quantity(data.alpha),
    "features": lambda data: FeatureSkew(data.alpha),
}
"""What each value of `data.partition` makes."""


def partition(
    partitioner: Partitioner,
    features: Features,
    labels: Labels,
    silos: int,
    *,
    rng: np.random.Generator,
    minimum: int = 2,
) -> list[Indices]:
    """Deal a data set out so that every silo gets at least `minimum` samples.

    Where the partitioner leaves a silo with fewer, random samples of whichever silo is then the largest are
    moved to it, one at a time: at most minimum * silos of them, which even a strong skew survives.

    Args:
        partitioner: how to deal.
        features: (n, ...).
        labels: integers (n,).
        silos: at least 1.
        rng: consumed; equal generators give equal parts.
        minimum: 2 leaves one sample to train on and one to hold out.

    Returns:
        `silos` ascending index arrays that together are 0..n-1 exactly once.

    Raises:
        ConfigError: fewer than silos * minimum samples, or options that do not fit.
    """
    samples = len(labels)
    if silos * minimum > samples:
        raise ConfigError(
            f"{silos} silos cannot share {samples} samples, as each needs at least {minimum}: "
            f"start at most {samples // minimum} silos or use a larger data set"
        )
    parts = partitioner.deal(features.reshape(samples, -1), labels, silos, rng)
    _level(parts, minimum, rng)
    return [np.sort(part) for part in parts]


def _level(parts: list[Indices], minimum: int, rng: np.random.Generator) -> None:
    """Fill the parts that are below the minimum, in place."""
    for k in range(len(parts)):
        while len(parts[k]) < minimum:
            largest = max(range(len(parts)), key=lambda j: len(parts[j]))
            taken = rng.integers(len(parts[largest]))
            parts[k] = np.append(parts[k], parts[largest][taken])
            parts[largest] = np.delete(parts[largest], taken)
