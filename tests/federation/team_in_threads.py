"""A silo whose other ranks are threads of one process, and tasks of every kind for them."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from silofl import config as configuration
from silofl.config import Config, TrainConfig
from silofl.errors import SiloflError
from silofl.federation.local_work import RoundStart
from silofl.federation.rank_of_silo import RankOfSilo, failure
from silofl.federation.silo import Silo
from silofl.federation.team import Team
from silofl.strategies.registry import build
from silofl.tasks.base import SiloData
from silofl.tasks.user_code import UserCode

SAMPLES = 23


def points(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(SAMPLES, 4, dtype=torch.float64, generator=generator)
    return x.to(dtype), (x.sum(1, keepdim=True) + 1).to(dtype)


class Curve:
    """Least squares with a small network; a parameter has no part in it."""

    def model(self) -> nn.Module:
        made = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        made.register_parameter("idle", nn.Parameter(torch.ones(2)))
        return made

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(*points()))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return (model(x) - y).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"loss": self.loss(model, batch)}


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """What is no TensorDataset."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = points()
        return x[index], y[index]


class Mapped(Curve):
    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(Samples())

    def collate(self, samples: list[Any]) -> Any:
        assert samples, "a rank without samples makes no batch"
        return [torch.stack(column) for column in zip(*samples, strict=True)]


class Words(Curve):
    """Sparse gradients."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(6, 1))

    def data(self, silo: int, silos: int) -> SiloData:
        words = torch.arange(2 * SAMPLES).view(-1, 2) ** 2 % 9
        return SiloData(TensorDataset(words, points()[1]))


class Turned(nn.Module):
    """Complex parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((4,), 0.5 + 0.5j, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).sum(1, keepdim=True)


class Complex(Curve):
    def model(self) -> nn.Module:
        return Turned()

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return (model(x) - y).abs().square().mean()


class Alternating(Curve):
    """Which of two layers a batch trains is in its samples: one rank may have no gradient for either."""

    def model(self) -> nn.Module:
        return nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        assert isinstance(model, nn.ModuleList)
        total = x.new_zeros(())
        for layer, some in zip(model, (x[:, 0] > 1.2, x[:, 0] <= 1.2), strict=True):
            if some.any():
                total = total + (layer(x[some]) - y[some]).square().sum()
        return total / len(x)


class Normed(Curve):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))


class Dropping(Curve):
    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 50), nn.Dropout(), nn.Linear(50, 1))


class InThreads(Team):
    """Its ranks are threads; `readings` counts what they were asked to read."""

    readings = 0

    def reading(self, config: TrainConfig, name: str, seed: int) -> AbstractContextManager[None]:
        InThreads.readings += 1
        return super().reading(config, name, seed)

    def _start(self, threads: int) -> Connection:
        here, there = Pipe()
        threading.Thread(target=served, args=(there, os.dup(self._file)), daemon=True).start()
        return here

    def close(self) -> None:
        for line in self._lines:
            line.close()
        os.close(self._file)


def served(line: Connection, file: int) -> None:
    with suppress(EOFError, OSError):
        told = line.recv()
        try:
            RankOfSilo(line, file, told).serve()
        except SiloflError as error:
            line.send(failure(error, told.silo, told.rank))
            line.recv()


def settings(ranks: int, **sections: Any) -> Config:
    train = {"dtype": "float64", "batch_size": 6, "lr": 0.05, **sections.pop("train", {})}
    return configuration.parse({"train": {**train, "ranks_per_silo": ranks}, **sections})


def made(config: Config, task: Any) -> tuple[Silo, InThreads | None]:
    code, ranks = UserCode(0), config.train.ranks_per_silo
    gathered = None if ranks == 1 else InThreads(config, task, code, 1, 0)
    silo = Silo(config, task, 0, 1, "cpu", code=code)
    if gathered is not None:
        gathered.gather(silo.model, silo.train)
        silo.trainer.team = gathered
    return silo, gathered


def trained(ranks: int, task: Any, rounds: int = 2, **sections: Any) -> tuple[list[np.ndarray], list[float]]:
    """What each round sends, vector by vector, and its loss; the model goes on from its update alone."""
    config = settings(ranks, **sections)
    strategy = build(config.strategy)
    silo, gathered = made(config, task)
    values, sent, losses = silo.initial(), [], []
    count = silo.model.trainable
    for number in range(1, rounds + 1):
        shared = {name: np.zeros(count) for name in strategy.shared} | {"model": values[:count]}
        found = silo.fit(RoundStart(shared, values[count:], number, strategy))
        silo.accept(found)
        vectors = found.contribution.vectors
        sent += [vectors[name].copy() for name in sorted(vectors)]
        if "update" in vectors:
            values = values + np.concatenate([vectors["update"], vectors.get("buffers", values[:0])])
        losses.append(found.loss)
    if gathered is not None:
        gathered.close()
    return sent, losses


def assert_equal(ranks: int, task: Any, **options: Any) -> None:
    one, several = trained(1, task, **options), trained(ranks, task, **options)
    assert len(one[0]) == len(several[0])
    for expected, found in zip(one[0], several[0], strict=True):
        assert np.abs(expected).max() > 0
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(several[1], one[1], rtol=1e-12)
