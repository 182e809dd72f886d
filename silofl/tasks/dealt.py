"""One public data set dealt out to silos."""

from __future__ import annotations

from silofl.config import DataConfig
from silofl.tasks.base import SiloData
from silofl.tasks.holdout import silo_data
from silofl.tasks.partition import PARTITIONERS, partition
from silofl.tasks.partition.base import Features, Labels
from silofl.tasks.random_streams import stream


def deal(
    features: Features, labels: Labels, data: DataConfig, *, seed: int, silo: int, silos: int
) -> SiloData:
    """The part of silo `silo`, split for training and evaluation.

    Args:
        features: (n, ...), the whole data set, the same on every rank.
        labels: integers (n,).
        data: the partitioner and the part to hold out.
        seed: of the run; every rank deals all parts alike and keeps its own.
        silo, silos: 0 <= silo < silos.

    Raises:
        ConfigError: more silos than the samples can serve.
    """
    partitioner = PARTITIONERS[data.partition](data)
    mine = partition(partitioner, features, labels, silos, rng=stream(seed, "partition"))[silo]
    return silo_data(features[mine], labels[mine], fraction=data.test_fraction, seed=seed, silo=silo)
