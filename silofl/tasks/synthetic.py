"""The synthetic(alpha, beta) problem of the FedProx paper."""

from __future__ import annotations

from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from silofl.config import DataConfig, TaskConfig
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.holdout import held_out, silo_data
from silofl.tasks.models import build_model
from silofl.tasks.random_streams import stream

FEATURES, CLASSES = 60, 10
SIGMA = np.arange(1, FEATURES + 1) ** -1.2
"""Variance of each feature around the silo's mean, float64 (60,)."""


class Truth(NamedTuple):
    """One silo's own distribution."""

    samples: int
    weight: NDArray[np.float64]
    """(60, 10)."""
    bias: NDArray[np.float64]
    """(10,)."""
    centre: NDArray[np.float64]
    """(60,), the mean of its features."""


def draw_truth(alpha: float, beta: float, rng: np.random.Generator) -> Truth:
    """Draw one silo's distribution.

    Li et al. 2020, "Federated Optimization in Heterogeneous Networks", section 5.1: u ~ N(0, alpha),
    W and b ~ N(u, 1), B ~ N(0, beta), centre ~ N(B, 1). alpha and beta are standard deviations, as in the
    program that made the paper's data and in those derived from it (at 0 and 1 variances would be the same).
    Sizes are that program's, too: 50 more than a lognormal(4, 2), rounded down.
    """
    samples = 50 + int(rng.lognormal(4, 2))
    u, b = rng.normal(0, alpha), rng.normal(0, beta)
    return Truth(
        samples,
        weight=rng.normal(u, 1, (FEATURES, CLASSES)),
        bias=rng.normal(u, 1, CLASSES),
        centre=rng.normal(b, 1, FEATURES),
    )


def draw_samples(truth: Truth, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (n, 60) ~ N(centre, diag(j^-1.2)) and labels (n,) = argmax softmax(x W + b)."""
    features = rng.normal(truth.centre, np.sqrt(SIGMA), (truth.samples, FEATURES))
    labels = np.argmax(features @ truth.weight + truth.bias, axis=1)
    return features, labels.astype(np.int64)


@final
class Synthetic(Classification):
    """synthetic(task.alpha, task.beta): 60 features, 10 classes, each silo with its own truth and size.

    Silo k's samples are made from (seed, k) alone, so they do not depend on how many silos there are;
    `data.partition` plays no part. A sample is float32 (60,). The paper's model is `task.model = "linear"`.
    """

    shape = (FEATURES,)
    classes = tuple(map(str, range(CLASSES)))

    def __init__(self, task: TaskConfig, data: DataConfig, seed: int) -> None:
        self._task, self._data, self._seed = task, data, seed
        self.model()  # refuses a CNN before any data is made

    def model(self) -> nn.Module:
        """The MLP or linear model of `task.model`."""
        return build_model(self._task, (FEATURES,), CLASSES)

    def data(self, silo: int, silos: int) -> SiloData:
        """This silo's samples, at least 50."""
        rng = stream(self._seed, "synthetic", silo)
        features, labels = draw_samples(draw_truth(self._task.alpha, self._task.beta, rng), rng)
        held = held_out(features, labels, self._data.test_fraction, self._seed)
        return silo_data(features, labels, held, silo=silo)
