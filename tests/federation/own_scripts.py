"""Tasks with methods of a training script's, on made-up data, for tests of several files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.tasks import metrics
from silofl.tasks.base import Metric, SiloData

FEATURES, CLASSES = 6, 3
Record = dict[str, Any]


class Plain:
    """A small classifier of points around class centres."""

    def __init__(self) -> None:
        self.heard: list[Mapping[str, Any]] = []

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))

    def data(self, silo: int, silos: int) -> SiloData:
        generator = torch.Generator().manual_seed(silo)
        y = torch.randint(CLASSES, (60,), generator=generator)
        x = torch.randn(60, FEATURES, generator=generator) + nn.functional.one_hot(y, FEATURES)
        return SiloData(TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:]))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Metric]:
        return {"accuracy": metrics.accuracy(model(batch[0]), batch[1])}


def settings(path: Path, **sections: Record) -> Config:
    tables: dict[str, Record] = {
        "run": {"name": "script", "dir": str(path), "display": "none", "rounds": 4},
        "secure": {"protocol": "plain"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


def federate(config: Config, task: Any, silos: int = 2, *, resume: bool = False) -> Any:
    """The summary, or the error that all silos raised. `task` is a class, of which each silo has one."""
    tasks = [task() for _ in range(silos)] if callable(task) else [task] * silos

    def rank(comm: Communicator) -> Record | SiloflError:
        torch.set_num_threads(1)
        try:
            return train(config, tasks[comm.rank], comm=comm, resume=resume)
        except SiloflError as error:
            return error

    found = run_in_threads(silos, rank, timeout_s=60)
    assert len({str(one) for one in found if isinstance(one, SiloflError)}) <= 1
    return found[0]
