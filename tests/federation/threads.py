"""Silos as threads, in which an injected `kill` ends a thread as SIGKILL ends a process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.aggregation.plain import PlainAggregator
from silofl.aggregation.secagg import SecAggSum
from silofl.comm.protocol import Communicator, RankFailedError, SimulatedCrash
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from tests.exchange_ways import use

Record = dict[str, Any]
FEATURES, CLASSES = 60, 10
CHUNK = 64
"""Values of a slice that move at a time: so few that a collection has a first, a middle and a last chunk."""


class Normalized:
    """A classification whose model starts from zero, with buffers that are averaged: d = 730 + 120."""

    def model(self) -> nn.Module:
        linear = nn.Linear(FEATURES, CLASSES)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.BatchNorm1d(FEATURES), linear)

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(silo)
        x = torch.from_numpy(rng.standard_normal((40 + 13 * silo, FEATURES)).astype(np.float32) + silo)
        data = TensorDataset(x, torch.from_numpy(rng.integers(0, CLASSES, len(x))))
        return SiloData(data, data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def prepare(monkeypatch: pytest.MonkeyPatch, *, way: str = "memory") -> None:
    """Make `kill` end a thread, pieces small, and rows travel in one of the `WAYS`.

    As with MPI, a collective that fails leaves anything in the memory that it was to fill.
    """

    def die() -> None:
        raise SimulatedCrash

    for kind, name, value in (
        (FaultInjector, "die", die),
        (SecAggSum, "chunk", 4 * CHUNK),
        (PlainAggregator, "chunk", 4 * CHUNK),
    ):
        monkeypatch.setitem(kind.__init__.__kwdefaults__, name, value)  # type: ignore[misc]
    for name in ("allgather", "alltoall"):
        monkeypatch.setattr(ThreadCommunicator, name, torn(getattr(ThreadCommunicator, name)))
    use(way, monkeypatch)


def torn(collective: Any) -> Any:
    """The collective, with garbage for what it was to receive when it fails."""

    def call(comm: ThreadCommunicator, send: Any, receive: Any, *more: Any) -> None:
        try:
            collective(comm, send, receive, *more)
        except RankFailedError:
            if not np.shares_memory(send, receive):
                receive[...] = 77
            raise

    return call


def settings(path: Path, **sections: Record) -> Config:
    """Four quick rounds in a directory, with state of every kind that a silo and a server can have."""
    tables: dict[str, Record] = {
        "run": {"name": "threads", "dir": str(path), "display": "none", "rounds": 4},
        "train": {"full_batch": True, "steps": 2, "momentum": 0.9, "keep_optimizer": True},
        "strategy": {"momentum": 0.5, "lr": 0.7},
        "failure": {"policy": "shrink"},
    }
    for name, keys in sections.items():
        tables[name] = tables.get(name, {}) | keys
    return configuration.parse(tables)


def federate(config: Config | list[Config], silos: int, *, resume: bool = False) -> list[Any]:
    """What every silo has in the end: its summary, the error that it raised, or None where it died."""
    configs = config if isinstance(config, list) else [config] * silos

    def rank(comm: Communicator) -> Record | SiloflError:
        torch.set_num_threads(1)  # as the reference has: more of them add up in another order
        try:
            return train(configs[comm.rank], Normalized(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def records(path: Path) -> list[Record]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
