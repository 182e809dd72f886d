"""Bringing lost ranks back: those that are left start new processes, which become members when ready.

By MPI_Comm_spawn and MPI_Intercomm_merge (MPI 4.1, sections 11.8 and 7.6). Neither side waits for ever for
the other: whoever is late, or dies, is left alone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from silofl.comm import mpi_library
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import RankFailedError
from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher import watchdog
from silofl.launcher.environment import THREAD_VARIABLES

SPAWN_TIMEOUT_S = 60.0
"""What the launcher and MPI may take to start a process; MPI_Comm_spawn has no limit of its own."""


@dataclass(frozen=True)
class Place:
    """Where a rank ran, and where it is started again."""

    host: str
    local_rank: int


@dataclass(frozen=True)
class SpawnInfo:
    """What a process that was started again is told first."""

    number: int
    """Its number among the members."""
    members: tuple[int, ...]
    """All members once it has joined."""
    leader: int
    """Number of the member that hands over to it."""
    local_rank: int
    """Its place among the ranks of its node."""
    silos: int
    """How many there were when all met."""


def respawn(
    comm: MpiCommunicator, numbers: Sequence[int], places: Sequence[Place], *, timeout_s: float
) -> MpiCommunicator | None:
    """Start `numbers` again by this program's own command line, and wait until they join; collective.

    `places` are those of all ranks, by their number. Returns the communicator of all, in the order of their
    numbers, or None where they could not be started or were not ready after `timeout_s` seconds. They call
    `spawned_by`, then `join`.
    """
    mpi, own = mpi_library.load(), comm.handle
    between = None
    try:
        with (
            watchdog.waiting(),
            _bounded(SPAWN_TIMEOUT_S, "the launcher did not start a lost silo again"),
        ):
            between = own.Spawn_multiple(
                ["env"] * len(numbers),
                [_arguments()] * len(numbers),
                [1] * len(numbers),
                [_info(mpi, places[number]) for number in numbers],
                root=0,
            )
        members = tuple(sorted((*comm.members, *numbers)))
        infos = [
            SpawnInfo(number, members, comm.members[0], places[number].local_rank, len(places))
            for number in numbers
        ]
        text = json.dumps([asdict(one) for one in infos]).encode()
        root = mpi.ROOT if comm.rank == 0 else mpi.PROC_NULL
        with watchdog.waiting(), _bounded(SPAWN_TIMEOUT_S + timeout_s, "a silo that came back was not met"):
            between.Bcast(np.array([len(text)], np.int64), root)
            between.Bcast(np.frombuffer(text, np.uint8).copy(), root)
            if wait_with_backoff([between.Ibarrier()], timeout_s):
                return _merge(comm, between, False, comm.members[comm.rank], members)
    except (mpi.Exception, RankFailedError):
        pass  # one of either side died; those that are left find out who by their own communicator
    if between is not None:
        between.Revoke()
    return None


def spawned_by() -> SpawnInfo | None:
    """What this process was started again for; None in one that the launcher started. Collective."""
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    if between == mpi.COMM_NULL:
        return None
    length = np.empty(1, np.int64)
    # Where the other side died, Open MPI may look for its address for ever, in the middle of any call.
    with watchdog.waiting(), _bounded(SPAWN_TIMEOUT_S, "this silo was started again but not told what for"):
        between.Bcast(length, 0)
        text = np.empty(int(length[0]), np.uint8)
        between.Bcast(text, 0)
    own = json.loads(text.tobytes())[mpi.COMM_WORLD.rank]
    return SpawnInfo(**own | {"members": tuple(own["members"])})


def join(comm: MpiCommunicator, spawn_info: SpawnInfo) -> MpiCommunicator:
    """The communicator of all, once this process is ready; collective with `respawn`.

    Raises RankFailedError where the others do not wait any more.
    """
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    try:
        with watchdog.waiting(), _bounded(SPAWN_TIMEOUT_S, "the others did not meet this silo"):
            wait_with_backoff([between.Ibarrier()])
            return _merge(comm, between, True, spawn_info.number, spawn_info.members)
    except mpi.Exception as error:
        raise RankFailedError("the run went on without this silo") from error


def _merge(
    comm: MpiCommunicator, between: Any, high: bool, number: int, members: tuple[int, ...]
) -> MpiCommunicator:
    merged = between.Merge(high)
    ordered = merged.Split(0, number)
    return comm.successor(ordered, members)


def _arguments() -> list[str]:
    """This program's own command line, with as many threads as this rank has."""
    threads = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    return [*threads, f"{watchdog.RESPAWNED}=1", sys.executable, *sys.orig_argv[1:]]


def _info(mpi: Any, place: Place) -> Any:
    info = mpi.Info.Create()
    info.Set("wdir", os.getcwd())
    info.Set("host", place.host)
    return info


class _bounded:
    """End this rank if a call that has no time limit of its own does not return: better dead than stuck."""

    def __init__(self, timeout_s: float, what: str) -> None:
        self._sentence = f"{what} within {timeout_s:g} s: this rank ends"
        self._timer = threading.Timer(timeout_s, self._give_up)
        self._timer.daemon = True

    def _give_up(self) -> None:
        log(self._sentence)
        os._exit(EXIT_RESUMABLE)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
