"""One of the other ranks of a silo: gradients of its part of every batch, at the values that it is given.

    python -m silofl.federation.rank_of_silo PARENT CONNECTION MEMORY

PARENT is the process of the silo's first rank, with which this one ends; the others are descriptors that
`federation/team.py` opened there.
"""

from __future__ import annotations

import signal
import sys

from silofl.launcher.process_tree import end_with

if __name__ == "__main__":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # the first rank decides when the silo ends
    end_with(int(sys.argv[1]))

import os
import pickle
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from operator import mul
from pathlib import Path
from typing import Any, TypeVar

import torch

from silofl import config as configuration
from silofl import console
from silofl.comm.collective_errors import describe
from silofl.config import TrainConfig
from silofl.errors import ConfigError, SiloflError, TrainingError
from silofl.federation.no_data import data_of
from silofl.federation.silo import Silo
from silofl.federation.team import KEY, Told
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.topologies.arrangements.registry import with_data
from silofl.training.batches import Part
from silofl.training.device import explained, place
from silofl.training.local_batches import LocalBatches
from silofl.training.seeding import derive, seed_everything
from silofl.training.team_memory import TeamMemory, layout

T = TypeVar("T")
ENDLESS_S = 1e15
"""Seconds of `train.seconds` here: the first rank says when they are over."""


class RankOfSilo:
    """What one rank does for its silo, whose first one is at the other end of `line`."""

    def __init__(self, line: Connection, file: int, told: Told) -> None:
        sys.path[:] = told.path
        with configuration.relative_to(Path.cwd()):
            config = configuration.parse(tomllib.loads(told.config))
        self._line, self._rank, self._ranks = line, told.rank, config.train.ranks_per_silo
        device = place(config.train.device, told.local_rank + told.rank)
        code = UserCode(told.silo, told.folder)
        task = _task(told)
        with console.data_told_to(lambda text: None):  # which the first rank tells
            counted = with_data(config.topology, told.silos)
            data = data_of(config, task, code, told.silos)
            self._silo = silo = Silo(config, task, told.silo, counted, device, code=code, data=data)
        self._number = told.silo
        line.send(layout(silo.model, silo.train))
        line.recv()  # that they are so everywhere, and the memory as long
        self._memory = TeamMemory(silo.model, self._ranks, file)

    def serve(self) -> None:
        """Read as the first rank says, until it ends."""
        while True:
            _, config, name, seed = self._line.recv()
            self._read(config, name, seed)

    def _read(self, config: TrainConfig, name: str, seed: int) -> None:
        """One part of each batch, in the first rank's order of samples; what else is random is its own."""
        if config.seconds is not None:
            config = config.model_copy(update={"seconds": ENDLESS_S})
        batches = self._parts(getattr(LocalBatches(self._silo.train, config), name), seed)
        found = self._attempt(lambda: next(batches))
        while True:
            told = self._line.recv()  # while the next batch is read already
            if told[0] == "over":
                return
            if isinstance(found, SiloflError):
                self._line.send(found)
            else:
                self._line.send(self._attempt(partial(self._step, *found, told[1])))
            found = self._attempt(lambda: next(batches))

    def _parts(self, read: Callable[..., Any], seed: int) -> Iterator[tuple[Any, float]]:
        """This rank's part of each batch, None for nothing, and its weight; without an end."""
        generator, train = seed_everything(seed), self._silo.train
        seed_everything(derive(seed, self._rank, 0))
        self._silo.trainer.to_train()
        train.part = Part(self._rank, self._ranks)
        for batch, weight in read(generator):
            yield batch, weight * train.share
        while True:
            yield None, 0.0

    def _step(self, batch: Any, weight: float, scale: float) -> float:
        """Gradients of a part of a batch, into the memory of the silo; its part of the loss."""
        self._memory.load()
        for parameter in self._silo.model.trained.values():
            parameter.grad = None
        loss = 0.0
        if batch is not None:
            loss = float(self._silo.trainer.differentiate(batch, weight, partial(mul, scale)))
        self._memory.put_gradients(self._rank)
        return loss

    def _attempt(self, work: Callable[[], T]) -> T | SiloflError:
        """What `work` gives or raises."""
        try:
            with explained(self._number):
                return work()
        except Exception as error:
            return failure(error, self._number, self._rank)


def failure(error: Exception, silo: int, rank: int) -> SiloflError:
    """An error as the first rank is to raise it: of the same kind, with its place."""
    if not isinstance(error, SiloflError):
        return TrainingError(f"silo {silo}, its rank {rank}: {describe(error, text=False)}")
    error.args = (f"silo {silo}, its rank {rank}: {str(error).removeprefix(f'silo {silo}: ')}",)
    return error


def _task(told: Told) -> Task:
    try:
        task: Task = pickle.loads(told.task)
    except Exception as error:
        raise ConfigError(
            f"silo {told.silo}: {KEY} is more than 1 and the task cannot be made again in another process "
            f"({describe(error, text=False)}): let its module be imported without the program that was "
            f"started, or set {KEY} = 1"
        ) from None
    return task


def main() -> None:
    """Serve the silo's first rank; tell it what goes wrong."""
    console.open_streams()
    line, file = Connection(int(sys.argv[2])), int(sys.argv[3])
    with suppress(EOFError, ConnectionError):  # the first rank has ended
        told = line.recv()
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        try:
            rank = RankOfSilo(line, file, told)
        except (EOFError, ConnectionError):
            raise
        except Exception as error:
            line.send(failure(error, told.silo, told.rank))
            line.recv()
        else:
            rank.serve()


if __name__ == "__main__":
    main()
