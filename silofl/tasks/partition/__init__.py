"""How built-in data is dealt out to silos: each sample to exactly one, by its own values and the seed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from silofl.config import DataConfig
from silofl.errors import ConfigError
from silofl.tasks.partition.base import Indices, Partitioner, Records
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
    "Records",
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
_LEAST = 2
"""Samples that each silo has on average, at least: one to train on and one to hold out."""


def partition(
    partitioner: Partitioner, records: Records, silos: int, *, rng: np.random.Generator
) -> list[Indices]:
    """Deal a data set out.

    Args:
        partitioner: how to deal.
        records: the samples.
        silos: at least 1.
        rng: consumed; equal generators give equal parts.

    Returns:
        `silos` ascending index arrays, some perhaps empty, that together are 0..n-1 exactly once.

    Raises:
        ConfigError: more silos than half the samples, or options that do not fit.
    """
    if silos * _LEAST > records.published:
        raise ConfigError(
            f"{silos} silos cannot share {records.published} samples, as each needs at least {_LEAST}: "
            f"start at most {records.published // _LEAST} silos or use a larger data set"
        )
    owners = partitioner.assign(records, silos, rng)
    return [np.flatnonzero(owners == silo) for silo in range(silos)]
