"""`silofl bench checkpoint`: how long a round stands still for its checkpoint, beside the round itself.

A silo's state is its slice of the model and of the server's momentum, and whole vectors of its own, such as
the momentum of an optimizer that is kept. Training is played by matrix products and passes over two vectors
of the model's size, as much of it as takes the assumed seconds when nothing is being written.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from silofl.bench.measure import Row, row
from silofl.checkpoint.run_id import OF_NO_RUN
from silofl.checkpoint.store import CheckpointStore
from silofl.checkpoint.trust import Trust
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.protocol import Communicator
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError

KEEP = 2
GIB = float(1 << 30)
ROUND = "round without a checkpoint"
STALL = "stall, files written beside the next round"
GOAL = "<= 0.05"


@dataclass(frozen=True)
class Result:
    """The figures; the same on every rank."""

    rows: list[Row]
    notes: list[str]


class Training:
    """A fixed amount of work on one rank: nine tenths are matrix products, the rest passes over vectors."""

    def __init__(self, parameters: int) -> None:
        self.parameters = np.ones(parameters, np.float32)
        self.momentum = np.zeros(parameters, np.float32)
        self._matrix = np.ones((512, 512), np.float32)
        for warm_up in (self._pass, self._product):
            warm_up()
        self._products = max(1, round(9 * _processor_seconds(self._pass) / _processor_seconds(self._product)))
        self.steps = 1

    def __call__(self) -> None:
        """Train `steps` steps."""
        for _ in range(self.steps):
            self._pass()
            for _ in range(self._products):
                self._product()

    def _pass(self) -> None:
        self.momentum *= 0.9
        self.parameters += self.momentum

    def _product(self) -> None:
        self._matrix @ self._matrix


def _processor_seconds(call: Callable[[], object]) -> float:
    began = time.thread_time()
    for _ in range(3):
        call()
    return (time.thread_time() - began) / 3


def run(
    comm: Communicator,
    *,
    parameters: int,
    own_vectors: int,
    seconds: float,
    repeats: int,
    buddy: bool,
    directory: Path,
) -> Result:
    """Measure; collective. Writes below `directory`, and removes what it wrote.

    Args:
        comm: one silo a rank.
        parameters: the model's size d.
        own_vectors: how many float32 vectors of d values are a silo's own state.
        seconds: what training takes in a round.
        repeats: rounds of the measurement.
        buddy: whether each silo's file also goes, sealed, to the next.
        directory: on the disk that is measured, shared by all ranks.
    """
    part = parameters // comm.size
    size = 4 * (2 * part + own_vectors * parameters)
    with raise_on_all_ranks(comm):
        _check_room(directory, comm.size * size * (KEEP + 2) * (2 if buddy else 1))
    path = _common_folder(comm, directory)
    try:
        training = Training(parameters)
        _calibrate(comm, training, seconds)
        key = Secret(bytes([comm.rank]) * 32) if buddy else None
        store = CheckpointStore(comm, path, {}, Trust(OF_NO_RUN), silos=comm.size, keep=KEEP, buddy_key=key)
        times = _measure(comm, store, training, _state(training, part, own_vectors), repeats, buddy)
    finally:
        comm.barrier()
        if comm.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
    goals = {STALL: GOAL}
    rows = [row(name, t, ROUND, times[ROUND], 0.0, goals.get(name, "")) for name, t in times.items()]
    return Result(
        rows,
        [
            f"assumed: training takes {seconds:g} s a round; a silo's state is {size / GIB:.2f} GiB "
            f"(its slice of model and momentum, and {own_vectors} vectors of its own)",
            f"{comm.size * size / GIB:.2f} GiB a round go to {directory.resolve()}"
            + (", and as much again, sealed" if buddy else ""),
            "a time is that of the slowest rank; ratios are against the round of the same repetition",
        ],
    )


def _measure(
    comm: Communicator,
    store: CheckpointStore,
    training: Training,
    state: dict[str, Any],
    repeats: int,
    buddy: bool,
) -> dict[str, list[float]]:
    """Seconds by figure; one untimed repetition comes first."""
    numbers = iter(range(1, 1_000_000))
    times: dict[str, list[float]] = {}

    def slowest(*calls: Callable[[], object]) -> list[float]:
        comm.barrier()
        marks = [time.perf_counter()]
        for call in calls:
            call()
            marks.append(time.perf_counter())
        spent = np.diff(marks, append=marks[-1] + marks[-1] - marks[0])
        return [float(value) for value in comm.allreduce(spent, "max")]

    def begin() -> None:
        store.begin(next(numbers), state)

    for repetition in range(repeats + 1):
        (alone, _) = slowest(training)
        begin()
        for _ in range(buddy):  # the copy of a round crosses one round later
            slowest(training)
            slowest(store.commit_pending, begin)
        (beside, _) = slowest(training)
        settling, copying, stall = slowest(store.commit_pending, begin)
        store.flush()
        (_, _, waiting) = slowest(begin, store.flush)
        figures = {
            ROUND: alone,
            "round beside which files are written": beside,
            STALL: stall,
            "  of it, settling the round before": settling,
            "  of it, copying the state": copying,
            "stall, waiting for the files": waiting,
        }
        for name, value in figures.items() if repetition else ():
            times.setdefault(name, []).append(value)
    return times


def _state(training: Training, part: int, own_vectors: int) -> dict[str, Any]:
    """What a silo commits, as views of what training changes."""
    server = {"slice": training.parameters[:part], "velocity": training.momentum[:part]}
    return {"server": server, "own": [training.momentum] * own_vectors}


def _calibrate(comm: Communicator, training: Training, seconds: float) -> None:
    """Find how many steps take so long while all ranks train; the same number on all."""
    training()
    comm.barrier()
    began = time.perf_counter()
    for _ in range(3):
        training()
    one = float(comm.allreduce(np.array([(time.perf_counter() - began) / 3]), "max")[0])
    training.steps = max(1, round(seconds / one))


def _check_room(directory: Path, needed: int) -> None:
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise ConfigError(f"--directory {directory} cannot be used: {error.strerror}") from None
    if needed > free:
        raise ConfigError(
            f"--directory {directory} needs {needed / GIB:.1f} GiB and has {free / GIB:.1f} GiB free: "
            "name another, or give fewer --parameters"
        )


def _common_folder(comm: Communicator, directory: Path) -> Path:
    name = ""
    with raise_on_all_ranks(comm):
        if comm.rank == 0:
            try:
                name = tempfile.mkdtemp(prefix="bench-checkpoint-", dir=directory)
            except OSError as error:
                raise ConfigError(f"--directory {directory} cannot be written: {error.strerror}") from None
    return Path(comm.broadcast_bytes(name.encode()).decode())
