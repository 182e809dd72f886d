"""Softmax regression from zeros in float64, and FedAvg of it in NumPy: what federations are held against."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tests.federation.threads import CLASSES, FEATURES, Normalized

LR, ROUNDS = 0.1, 3
SECTIONS: dict[str, Any] = {
    "run": {"rounds": ROUNDS},
    "train": {
        "dtype": "float64",
        "full_batch": True,
        "steps": 1,
        "momentum": 0.0,
        "keep_optimizer": False,
        "lr": LR,
    },
    "strategy": {"momentum": 0.0, "lr": 1.0},
}
"""One step of plain SGD on all samples in each of three rounds."""


class Regression(Normalized):
    """The linear part of `Normalized` alone."""

    def model(self) -> nn.Module:
        linear: nn.Linear = super().model()[1]  # type: ignore[index]
        return linear


class Model(NamedTuple):
    """Weights (classes, features) and biases (classes,)."""

    w: NDArray[np.float64]
    b: NDArray[np.float64]


ZEROS = Model(np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES))


def trained(model: Model, silo: int, silos: int) -> tuple[Model, int]:
    """What a silo makes of the model in a round, and of how many samples."""
    x, y = (one.numpy() for one in Regression().data(silo, silos).train.tensors)  # type: ignore[attr-defined]
    scores = x.astype(np.float64) @ model.w.T + model.b
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(y)), y] -= 1
    return Model(model.w - LR * p.T @ x / len(y), model.b - LR * p.mean(0)), len(y)


def mean(models: list[tuple[Model, int]]) -> tuple[Model, int]:
    """Their mean, weighted by samples, and how many those are together."""
    total = sum(count for _, count in models)
    w = sum(count / total * one.w for one, count in models)
    b = sum(count / total * one.b for one, count in models)
    return Model(np.asarray(w), np.asarray(b)), total


def of_groups(model: Model, groups: Any, silos: int) -> tuple[Model, int]:
    """The mean of the means of groups, which are silos, or groups of groups; all train from `model`."""
    inner = [
        trained(model, one, silos) if isinstance(one, int) else of_groups(model, one, silos) for one in groups
    ]
    return mean(inner)


def fedavg(groups: Any, silos: int) -> Model:
    """The model after all rounds, of means of groups; of one group it is FedAvg without any."""
    model = ZEROS
    for _ in range(ROUNDS):
        model, _ = of_groups(model, groups, silos)
    return model


def away(found: dict[str, Any], model: Model) -> float:
    """How far a trained model's values are from these, at most."""
    return float(max(np.abs(found["weight"] - model.w).max(), np.abs(found["bias"] - model.b).max()))
