"""One public data set dealt out to silos."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.base import SiloData
from silofl.tasks.holdout import Features, Labels, held_out, silo_data
from silofl.tasks.partition import PARTITIONERS, Records, partition
from silofl.tasks.random_streams import stream
from silofl.tasks.row_hash import RANGE, row_hashes


class Published(NamedTuple):
    """What is publicly known of a data set, whatever lies in the file that is read."""

    samples: int
    classes: int
    centre: Features
    """(d,), about the middle of all samples."""


def deal(
    features: Features,
    labels: Labels,
    published: Published,
    data: DataConfig,
    *,
    seed: int,
    silo: int,
    silos: int,
) -> SiloData:
    """The part of silo `silo`, split for training and evaluation: whose a sample is and its role are its own.

    Args:
        features: (n, ...), the whole data set, the same on every rank.
        labels: integers (n,).
        published: what is known of it.
        data: the partitioner and the part to hold out.
        seed: of the run; every rank deals all parts alike and keeps its own.
        silo, silos: 0 <= silo < silos.

    Raises:
        ConfigError: more silos than the samples can serve.
        DataError: the silo has no sample to train on.
    """
    places = row_hashes(features, labels, seed, "places") / RANGE
    centred = features.reshape(len(features), -1) - published.centre
    records = Records(centred, labels, places, published.classes, published.samples)
    partitioner = PARTITIONERS[data.partition](data)
    mine = partition(partitioner, records, silos, rng=stream(seed, "partition"))[silo]
    held = held_out(features[mine], labels[mine], data.test_fraction, seed)
    if len(mine) < 2 or np.all(held):
        raise DataError(
            f'silo {silo} has too few samples to train on, as data.partition = "{data.partition}" deals it '
            f"{len(mine)} for {silos} silos and data.test_fraction holds out {np.count_nonzero(held)}: start "
            "fewer silos, or set another run.seed"
        )
    return silo_data(features[mine], labels[mine], held, silo=silo)
