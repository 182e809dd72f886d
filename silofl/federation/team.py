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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from silofl import config as configuration
from silofl.config import Config, TrainConfig
from silofl.console import log
from silofl.errors import ConfigError, SiloflError, TrainingError
from silofl.launcher import machine
from silofl.launcher.command import python_command
from silofl.launcher.detection import detect, launcher_executable
from silofl.launcher.environment import THREAD_VARIABLES, given_threads, planned_threads
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, Part
from silofl.training.flat import FlatModel
from silofl.training.team_memory import TeamMemory, layout

LAUNCHERS = ("PMIX_", "PRTE_", "OMPI_", "PMI_", "HYDRA_", "SILOFL_")
"""How variables of launchers begin: with them a task that loads MPI would be taken for the silo's rank."""
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that the first rank alone takes for the silo."""
KEY = "train.ranks_per_silo"


class Told(NamedTuple):
    """What a rank is told when it begins; the task is pickled."""

    config: str
    silo: int
    silos: int
    local_rank: int
    folder: Path | None
    path: list[str]
    task: bytes
    rank: int = 0


class Team:
    """The other ranks of a silo, as its first one has them: its trainer's `Steps`. They end with it.

    They load their libraries from here on, and serve after `gather`.

    Args:
        config: of the run.
        task: that is given to them, as it is now.
        code: of the silo.
        silos: how many there are in the run.
        local_rank: of the silo's first rank, among all ranks of this machine.

    Raises:
        ConfigError: the task cannot be given to other processes.
    """

    def __init__(self, config: Config, task: Task, code: UserCode, silos: int, local_rank: int) -> None:
        self._silo, self._ranks = code.silo, config.train.ranks_per_silo
        own = code.silo, silos, local_rank, code.folder, list(sys.path), _pickled(task, code.silo)
        self._told = Told(configuration.dump(config), *own)
        self._file = os.memfd_create("silofl-silo")
        threads = threads_of_each(self._ranks, os.environ)
        notice = cores_short(self._ranks, detect(os.environ, launcher_executable()).local_size or 1)
        if notice is not None and local_rank == 0:
            log(notice)
        torch.set_num_threads(threads)
        self._lines = [self._start(threads) for _ in range(1, self._ranks)]

    def gather(self, model: FlatModel, train: Batches) -> None:
        """Wait until they have the model and the samples that this rank trains on.

        Raises TrainingError where theirs are others, and SiloflError for what a rank says itself.
        """
        self._train = train
        for rank, line in enumerate(self._lines, 1):
            with self._ending(rank):
                line.send(self._told._replace(rank=rank))
        self._memory = TeamMemory(model, self._ranks, self._file, make=True)
        found = [self._answer(rank) for rank in range(1, self._ranks)]  # each loads as long as it has to
        _raise_first(found)
        for rank, laid in enumerate(found, 1):
            if laid != layout(model, train):
                raise TrainingError(
                    f"silo {self._silo}: rank {rank} of it has another model or other samples than its first "
                    f"rank: let the task make the same in every process, or set {KEY} = 1",
                    rank=self._silo,
                )
        self._tell(("begin",))

    def _start(self, threads: int) -> Connection:
        """A rank's process; the line to it."""
        here, there = Pipe()
        command = [*python_command()[:-1], "silofl.federation.rank_of_silo", str(os.getpid())]
        environ = {name: text for name, text in os.environ.items() if not name.startswith(LAUNCHERS)}
        environ |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        files = there.fileno(), self._file
        line = [*command, *map(str, files)]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)  # which the process has from here, too
        try:
            subprocess.Popen(line, env=environ, pass_fds=files, stdin=subprocess.DEVNULL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        return here

    @contextmanager
    def reading(self, config: TrainConfig, name: str, seed: int) -> Iterator[None]:
        """See `Steps`."""
        self._tell(("read", config, name, seed))
        self._train.part = Part(0, self._ranks)
        try:
            yield
        finally:
            self._train.part = None
            self._tell(("over",))

    def reduce(self, differentiate: Callable[[float], Tensor], scale: Callable[[], float]) -> Tensor:
        """See `Steps`."""
        self._memory.publish()
        self._tell(("step", scale()))
        try:
            loss = differentiate(self._train.share)
        except BaseException:
            self._let_answers_go()
            raise
        found = [self._answer(rank) for rank in range(1, self._ranks)]
        _raise_first(found)
        for rank, part in enumerate(found, 1):
            loss = loss + loss.new_tensor(part)
            self._memory.add_gradients(rank)
        return loss

    def _let_answers_go(self) -> None:
        """Of a step that failed here."""
        for line in self._lines:
            with suppress(EOFError, OSError):
                line.recv()

    def _tell(self, message: tuple[Any, ...]) -> None:
        for rank, line in enumerate(self._lines, 1):
            with self._ending(rank):
                line.send(message)

    def _answer(self, rank: int) -> Any:
        """What a rank gives, or the error that it raised. The watchdog bounds the wait in rounds."""
        with self._ending(rank):
            found = self._lines[rank - 1].recv()
        if isinstance(found, SiloflError):
            found.rank = self._silo
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


def _raise_first(found: Sequence[Any]) -> None:
    """Raise the first error of what all ranks gave: none of it is left on their lines."""
    error = next((one for one in found if isinstance(one, SiloflError)), None)
    if error is not None:
        raise error


def threads_of_each(ranks: int, environ: Mapping[str, str]) -> int:
    """How many threads each rank of a silo computes with; as the user says, or an equal part."""
    planned = planned_threads(environ)
    told = given_threads(environ) if planned is None else None
    return told or max(1, (planned or torch.get_num_threads()) // ranks)


def cores_short(ranks: int, local_size: int) -> str | None:
    """A sentence where the ranks of a silo have fewer cores than they are, else None.

    `local_size`: silos on this machine.
    """
    own, shared = machine.allowed_cores(), max(1, machine.shared_cores() // local_size)
    cores = min(own, shared)
    if ranks <= cores:
        return None
    remedy = "start mpirun with --bind-to none" if ranks <= shared else f"set it to {shared}"
    some = "1 core" if cores == 1 else f"{cores} cores"
    return f"{KEY} = {ranks} and a silo has {some} here, for which its ranks wait in turn: {remedy}"


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
