"""`silofl bench round`: a whole training round of a large model beside `MPI_Allreduce` of its vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.bench.measure import Call, Row, row
from silofl.bench.measure_ranks import interleaved_over_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.native import NativeReductions
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation, RunContext, setup
from silofl.federation.round import run_round
from silofl.federation.start import build_silo
from silofl.tasks.base import SiloData
from silofl.tasks.user_code import UserCode

PLAIN = "MPI_Allreduce, float32"
WIDTH = 16


class Trivial:
    """A large embedding of which one row is trained: the round is all exchange and no training.

    Args:
        parameters: how many, but for the rest of a row.
        width: values of a row.
    """

    def __init__(self, parameters: int, width: int = WIDTH) -> None:
        self._rows, self._width = parameters // width, width

    def model(self) -> nn.Module:
        """Rows with sparse gradients."""
        return nn.Embedding(self._rows, self._width, sparse=True)

    def data(self, silo: int, silos: int) -> SiloData:
        """One sample, and none held out."""
        return SiloData(TensorDataset(torch.tensor([silo])))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Sum of the row's values."""
        total: Tensor = model(batch[0]).sum()
        return total

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Nothing to report."""
        return {}


def run(comm: Communicator, *, parameters: int, repeats: int) -> list[Row]:
    """Rounds by `secagg` (three ranks or more) and in the clear, no evaluation, no checkpoint; collective."""
    native = NativeReductions()
    out = np.empty(parameters // WIDTH * WIDTH, np.float32)
    calls: dict[str, Call] = {}
    federations = []
    for protocol in ("plain", "secagg"):
        if protocol == "secagg" and comm.size < 3:
            continue
        settings = configuration.parse({"run": {"display": "none"}, "secure": {"protocol": protocol}})
        federation = _federation(comm, settings, parameters)
        federations.append(federation)
        calls[f"round, {protocol}"] = _rounds(federation)
    vector = federations[0].values.copy()
    calls = {PLAIN: lambda: native.allreduce(vector, out), **calls}
    times = interleaved_over_ranks(comm, calls, repeats)
    for federation in federations:
        federation.close()
    native.free()
    return [
        row(name, t, PLAIN, times[PLAIN], vector.nbytes / 1e9, "<= 2.5" if name != PLAIN else "")
        for name, t in times.items()
    ]


def _federation(comm: Communicator, settings: Config, parameters: int) -> Federation:
    group, task = ElasticGroup(comm), Trivial(parameters)
    silo = build_silo(group, settings, task, UserCode(group.silo_id), comm.size, comm.local_rank)
    return setup(RunContext.of(group, settings, silo, comm.size, Path()))


def _rounds(federation: Any) -> Call:
    clock = Clock()
    numbers = iter(range(1, 1_000_000))
    return lambda: run_round(federation, next(numbers), clock, evaluate=False)
