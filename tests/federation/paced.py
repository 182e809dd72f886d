"""Silos that take their time: a small classification whose local steps last as long as is said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from tests.federation.threads import Normalized, Record, settings


class Paced(Normalized):
    """`Normalized`, of which a silo's step takes `seconds[silo]`."""

    def __init__(self, seconds: Mapping[int, float]) -> None:
        self._seconds, self._silo = seconds, 0

    def data(self, silo: int, silos: int) -> SiloData:
        self._silo = silo
        return super().data(silo, silos)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            time.sleep(self._seconds.get(self._silo, 0.0))
        return super().loss(model, batch)


def asynchronous(path: Path, topology: Mapping[str, Any], **sections: Record) -> Config:
    """A configuration of silos that take two steps on all they have."""
    return settings(path, topology={"name": "asynchronous"} | dict(topology), **sections)


def run_paced(
    config: Config, seconds: Mapping[int, float], silos: int, *, resume: bool = False, timeout_s: float = 60
) -> list[Any]:
    """What every silo has in the end: its summary, or the error that it raised, or None where it died."""

    def rank(comm: Communicator) -> Record | SiloflError:
        torch.set_num_threads(1)
        try:
            return train(config, Paced(seconds), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=timeout_s)
