"""Hold out a part of one silo's samples for evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from silofl.errors import DataError
from silofl.tasks.base import SiloData
from silofl.tasks.random_streams import stream

Indices = NDArray[np.intp]


def holdout(
    labels: NDArray[np.integer[Any]], fraction: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Split 0..n-1 into (train, test), both ascending, both with at least one sample.

    The test part is every (1 / fraction)-th sample of the samples sorted by label and shuffled within a
    label, so each class with c samples gives fraction * c of them, rounded up or down.

    Args:
        labels: integers (n,), n >= 2.
        fraction: 0 < fraction < 1.
        rng: consumed.
    """
    samples = len(labels)
    held = min(max(round(samples * fraction), 1), samples - 1)
    shuffled = rng.permutation(samples)
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    chosen = np.zeros(samples, dtype=bool)
    chosen[by_label[(np.arange(held) * samples + rng.integers(samples)) // held]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def silo_data(
    features: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    fraction: float,
    seed: int,
    silo: int,
    standardize: bool = False,
    name: str = "",
) -> SiloData:
    """One silo's arrays as data sets of (float32 features, int64 label), part held out.

    Args:
        features: (n, ...); with `standardize`, shifted and scaled by the training part's mean and deviation.
        labels: integers (n,).
        fraction: of the samples, held out for evaluation.
        seed, silo: which samples are held out.
        standardize: constant features are shifted only.
        name: what an error calls the data; `silo <silo>` when empty.

    Raises:
        DataError: fewer than two samples.
    """
    if len(labels) < 2:
        raise DataError(
            f"{name or f'silo {silo}'} has {len(labels)} sample(s), too few to train on one "
            "and hold out another: give it at least 2"
        )
    train, test = holdout(labels, fraction, stream(seed, "holdout", silo))
    if standardize:
        mean, deviation = features[train].mean(axis=0), features[train].std(axis=0)
        features = (features - mean) / np.where(deviation > 0, deviation, 1)
    x = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    return SiloData(TensorDataset(x[train], y[train]), TensorDataset(x[test], y[test]))
