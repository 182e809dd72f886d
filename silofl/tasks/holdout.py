"""Hold out a part of one silo's samples for evaluation: each sample's role is its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from silofl.console import log_of_data
from silofl.errors import DataError
from silofl.tasks.base import SiloData
from silofl.tasks.owner_numbers import numbered
from silofl.tasks.row_hash import RANGE, row_hashes

Features = NDArray[np.floating[Any]]
Labels = NDArray[Any]


def held_out(features: Features, labels: Labels, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which samples are held out, (n,): a function of each sample's own values and label, and of the seed.

    So nobody's role depends on who else is there: samples of equal values have one role, at all silos, and a
    sample that is added, changed or removed leaves all others where they are. Held out are about `fraction`
    of many different samples, with the spread of independent draws.

    Args:
        features: (n, ...), as they were measured: before any scaling that other samples have a part in.
        labels: integers (n,), or floats (n, k), as they were measured.
        fraction: 0 < fraction < 1.
        seed: of the run.
    """
    return row_hashes(features, labels, seed, "roles") < np.uint64(round(fraction * RANGE))


def owners_held_out(owners: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """Which samples are held out, (n,), where all of one person have one role: about `fraction` of persons.

    Args:
        owners: (n, 2) digests that are keyed by the run's seed, and so uniform: see `readers.owners`.
        fraction: 0 < fraction < 1.
    """
    return (owners[:, 0] >> np.uint64(32)) < np.uint64(round(fraction * RANGE))


def silo_data(
    features: Features,
    labels: Labels | Tensor,
    held: NDArray[np.bool_],
    *,
    silo: int,
    name: str = "",
    owners: NDArray[np.uint64] | None = None,
) -> SiloData:
    """One silo's arrays as data sets of (float32 features, label), part held out.

    Where no sample is held out, the silo only trains, and one line says so: see `log_of_data`.

    Args:
        features: (n, ...).
        labels: integers (n,), or what the loss takes of each sample (n, ...).
        held: which samples are held out, (n,).
        silo: its number.
        name: what messages call the data; `silo <silo>` when empty.
        owners: of each sample, (n, 2), where they are known.

    Raises:
        DataError: fewer than two samples, or none to train on.
    """
    who, samples = name or f"silo {silo}", len(labels)
    if samples < 2:
        raise DataError(
            f"{who} has {samples} sample(s), too few to train on one and hold out another: give it at least 2"
        )
    if held.all():
        raise DataError(
            f"{who} has {samples} sample(s), of which data.test_fraction holds out all, so that none is left "
            "to train on: give it more, or set a smaller data.test_fraction or another run.seed"
        )
    if not held.any():
        log_of_data(
            f"silo {silo}: none of {samples} sample(s) of {who} is held out by data.test_fraction: "
            "it only trains"
        )
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    y = labels if isinstance(labels, Tensor) else torch.from_numpy(labels.astype(np.int64))
    train, test = (torch.from_numpy(np.flatnonzero(side)) for side in (~held, held))
    whose = None if owners is None else numbered(owners[~held])
    return SiloData(TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test]), whose)
