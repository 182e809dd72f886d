"""Four unequal silos that have one of two tasks each: the first class of one task is the other's second."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData
from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything
from tests.strategies.naive import CLASSES, INPUTS, Array, Data

SIZES = (30, 45, 80, 60)
TASKS = (0, 1, 0, 1)
HELD_OUT = 40


def silos(sizes: tuple[int, ...] = SIZES, phase: float = 0.0) -> list[Data]:
    """Rows and classes of every silo; nothing about them is random."""
    weights = np.cos(np.outer(np.arange(1, INPUTS + 1), np.arange(1, CLASSES + 1)))
    made = []
    for silo, size in enumerate(sizes):
        row, column = np.mgrid[1 : size + 1, 1 : INPUTS + 1]
        x = np.sin(row * column * (1.3 + silo) + phase)
        made.append((x, ((x @ weights).argmax(1) + TASKS[silo]) % CLASSES))
    return made


def held_out() -> list[Data]:
    """Other rows of the same tasks."""
    return silos((HELD_OUT,) * len(SIZES), 1.0)


class Drawn(nn.Linear):
    """Softmax regression that begins as torch draws it."""

    def __init__(self) -> None:
        super().__init__(INPUTS, CLASSES, bias=False)


def starts(seed: int, clusters: int) -> list[Array]:
    """What the models of a run begin with: drawn one after the other, each under a seed of its own."""
    found = []
    for place in range(clusters):
        seed_everything(derive(seed, INITIAL_MODEL, place))
        found.append(Drawn().weight.detach().double().numpy().ravel())
    return found


class TwoTasks:
    """As a task of silofl."""

    def model(self) -> nn.Module:
        return Drawn()

    def data(self, silo: int, silos_: int) -> SiloData:
        train, test = (TensorDataset(*map(torch.from_numpy, part[silo])) for part in (silos(), held_out()))
        return SiloData(train, test)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {"accuracy": (model(x).argmax(1) == y).double().mean()}
