"""Several ranks of one silo: each takes its part of every batch, and their gradients are added up.

The silo's first rank is the one that others outside know; it starts the others on its own machine and steps
alone. Before each step they are given the model's values, and after it their gradients come back, both in
memory that the ranks of a silo share: so a rank keeps nothing that a resume would need.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor

from silofl import config as configuration
from silofl.config import Config
from silofl.console import log
from silofl.errors import ConfigError, SiloflError, TrainingError
from silofl.launcher.command import python_command
from silofl.launcher.environment import THREAD_VARIABLES, given_threads
from silofl.tasks.base import Task
from silofl.training.batches import Batches, Part
from silofl.training.local_batches import Read
from silofl.training.team_memory import TeamMemory

READY_TIMEOUT_S = 300.0
"""Time limit for a rank to load its libraries and the silo's data."""
KEY = "train.ranks_per_silo"


class Steps(Protocol):
    """What a trainer asks of the ranks of its silo."""

    def reading(self, read: Read, round_number: int) -> Any:
        """A context in which every rank reads its part of the batches that `read` gives."""

    def add_up(self, differentiate: Callable[[float], Tensor], scale: float) -> Tensor:
        """Have every rank differentiate its part of a batch; the loss of all of it, ().

        `differentiate(share)` does so here for the loss times `share`, this rank's part of the batch, and
        times `scale`, and gives the loss times `share`.
        """


class Alone:
    """The `Steps` of a silo of one rank."""

    @contextmanager
    def reading(self, read: Read, round_number: int) -> Iterator[None]:
        """See `Steps`."""
        yield

    def add_up(self, differentiate: Callable[[float], Tensor], scale: float) -> Tensor:
        """See `Steps`."""
        return differentiate(1.0)


class Team:
    """The other ranks of a silo, as its first one has them; see `Steps`. They end with this process.

    Args:
        config: of the run.
        task: that is given to them.
        silo: its number.
        silos: how many there are in the run.
        local_rank: of the silo's first rank, among all ranks of this machine.
        memory: with the model of this rank.
        train: the silo's training samples.
        fingerprint: of its model, which theirs have to have, too.

    Raises:
        ConfigError: the task cannot be given to other processes.
        SiloflError: a rank could not begin, as it says itself.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        silo: int,
        silos: int,
        local_rank: int,
        memory: TeamMemory,
        train: Batches,
        fingerprint: str,
    ) -> None:
        self._silo, self._memory, self._train = silo, memory, train
        self._ranks = config.train.ranks_per_silo
        told = {
            "config": configuration.dump(config),
            "silo": silo,
            "silos": silos,
            "local_rank": local_rank,
            "task": _pickled(task, silo),
        }
        threads = threads_of_each(self._ranks)
        torch.set_num_threads(threads)
        self._lines = [self._start(threads) for _ in range(1, self._ranks)]
        for rank, line in enumerate(self._lines, 1):
            with self._ending(rank):
                line.send(told | {"rank": rank})
        for rank in range(1, self._ranks):
            found = self._receive(rank, READY_TIMEOUT_S)
            if found != (fingerprint, len(train)):
                raise TrainingError(
                    f"silo {silo}: rank {rank} of it has another model or other samples than its first rank: "
                    f"let the task make the same in every process, or set {KEY} = 1",
                    rank=silo,
                )

    def _start(self, threads: int) -> Connection:
        """A rank's process; the line to it."""
        here, there = Pipe()
        command = [*python_command()[:-1], "silofl.federation.rank_of_silo", str(os.getpid())]
        environ = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        files = there.fileno(), self._memory.file
        subprocess.Popen([*command, *map(str, files)], env=environ, pass_fds=files, stdin=subprocess.DEVNULL)
        there.close()
        return here

    @contextmanager
    def reading(self, read: Read, round_number: int) -> Iterator[None]:
        """See `Steps`."""
        self._tell(("read", read.__name__, round_number))
        self._train.part = Part(0, self._ranks)
        try:
            yield
        finally:
            self._train.part = None
            self._tell(("over",))

    def add_up(self, differentiate: Callable[[float], Tensor], scale: float) -> Tensor:
        """See `Steps`."""
        if self._train.part is None:  # a batch of this rank's own
            return differentiate(1.0)
        self._memory.publish()
        self._tell(("step", scale))
        loss = differentiate(self._train.share)
        for rank in range(1, self._ranks):
            loss = loss + loss.new_tensor(self._receive(rank, None))
            self._memory.add_gradients(rank)
        return loss

    def _tell(self, message: tuple[Any, ...]) -> None:
        for rank, line in enumerate(self._lines, 1):
            with self._ending(rank):
                line.send(message)

    def _receive(self, rank: int, timeout_s: float | None) -> Any:
        """A rank's answer; raises what it raised. The watchdog bounds the wait in rounds."""
        with self._ending(rank):
            if not self._lines[rank - 1].poll(timeout_s):
                log(f"silo {self._silo}: rank {rank} of it did not begin within {timeout_s:g} s")
                raise EOFError
            found = self._lines[rank - 1].recv()
        if isinstance(found, SiloflError):
            found.rank = self._silo
            raise found
        return found

    @contextmanager
    def _ending(self, rank: int) -> Iterator[None]:
        """The end of any rank is the silo's: the others outside go on without it, or wait for it."""
        try:
            yield
        except (EOFError, OSError):
            self._end(rank)

    def _end(self, rank: int) -> NoReturn:
        log(f"silo {self._silo}: rank {rank} of it has ended, and the silo with it")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not reached")

    def close(self) -> None:
        """Let the other ranks end."""
        for line in self._lines:
            with suppress(OSError):
                line.close()


def threads_of_each(ranks: int) -> int:
    """How many threads each rank of a silo computes with; as the user says, or an equal part."""
    told = given_threads(os.environ)
    planned = "SILOFL_PLANNED_THREADS" in os.environ or told is None
    return max(1, torch.get_num_threads() // ranks) if planned else torch.get_num_threads()


def _pickled(task: Task, silo: int) -> bytes:
    kind = type(task)
    try:
        if kind.__module__ == "__main__":
            raise TypeError("its class is in the program that was started, which no other process imports")
        return pickle.dumps(task)
    except Exception as error:
        what = str(error).splitlines()[0][:120] if kind.__module__ == "__main__" else type(error).__name__
        raise ConfigError(
            f"silo {silo}: {KEY} is more than 1 and the task {kind.__name__} cannot be given to another "
            f"process ({what}): put its class into a module, with plain attributes, or set {KEY} = 1",
            rank=silo,
        ) from None
