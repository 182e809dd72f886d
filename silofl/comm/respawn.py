"""Respawn of failed ranks: survivors start new processes, which rejoin the communicator when ready.

By MPI_Comm_spawn and MPI_Intercomm_merge (MPI 4.1, sections 11.8 and 7.6). Both sides have a time limit: a
side that is late, or fails, is given up by the other.
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
"""Time limit for launcher and MPI to start a process; MPI_Comm_spawn has none of its own."""


@dataclass(frozen=True)
class Place:
    """Host and local rank of a rank: where it ran, and where it is respawned."""

    host: str
    local_rank: int


@dataclass(frozen=True)
class SpawnInfo:
    """First message to a respawned process."""

    number: int
    """Its silo id."""
    members: tuple[int, ...]
    """Silo ids of all ranks once it has rejoined."""
    leader: int
    """Silo id of the rank that sends it the run's state."""
    local_rank: int
    """Its index among the ranks of its node."""
    silos: int
    """Number of silos when the job started."""


def respawn(
    comm: MpiCommunicator, numbers: Sequence[int], places: Sequence[Place], *, timeout_s: float
) -> MpiCommunicator | None:
    """Respawn the silos `numbers` by this program's own command line, and wait until they join; collective.

    `places` has every silo's, by silo id. Returns the communicator of all ranks, in the order of their silo
    ids, or None where they could not be started or were not ready after `timeout_s` seconds. The respawned
    processes call `spawned_by`, then `join`.
    """
    mpi, own = mpi_library.load(), comm.handle
    between = None
    try:
        with (
            watchdog.waiting(),
            _time_limit(SPAWN_TIMEOUT_S, "the launcher did not respawn a failed silo"),
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
        with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S + timeout_s, "a respawned silo did not rejoin"):
            between.Bcast(np.array([len(text)], np.int64), root)
            between.Bcast(np.frombuffer(text, np.uint8).copy(), root)
            if wait_with_backoff([between.Ibarrier()], timeout_s):
                return _merge(comm, between, False, comm.members[comm.rank], members)
    except (mpi.Exception, RankFailedError):
        pass  # a rank of either side failed; the survivors' own communicator finds out which
    if between is not None:
        between.Revoke()
    return None


def spawned_by() -> SpawnInfo | None:
    """The silo that this process was respawned as; None in one that the launcher started. Collective."""
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    if between == mpi.COMM_NULL:
        return None
    length = np.empty(1, np.int64)
    # Where the other side failed, Open MPI may look for its address for ever, in the middle of any call.
    with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S, "this respawned silo got no first message"):
        between.Bcast(length, 0)
        text = np.empty(int(length[0]), np.uint8)
        between.Bcast(text, 0)
    own = json.loads(text.tobytes())[mpi.COMM_WORLD.rank]
    return SpawnInfo(**own | {"members": tuple(own["members"])})


def join(comm: MpiCommunicator, spawn_info: SpawnInfo) -> MpiCommunicator:
    """Rejoin: the communicator of all ranks, once this process is ready; collective with `respawn`.

    Raises RankFailedError where the survivors do not wait any more.
    """
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    try:
        with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S, "the survivors did not accept this silo"):
            wait_with_backoff([between.Ibarrier()])
            return _merge(comm, between, True, spawn_info.number, spawn_info.members)
    except mpi.Exception as error:
        raise RankFailedError("the survivors went on without this silo") from error


def _merge(
    comm: MpiCommunicator, between: Any, high: bool, number: int, members: tuple[int, ...]
) -> MpiCommunicator:
    ordered = between.Merge(high).Split(0, number)
    return comm.successor(ordered, members)


def _arguments() -> list[str]:
    """Arguments of `env`: this program's own command line, with as many threads as this rank has."""
    threads = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    return [*threads, f"{watchdog.RESPAWNED}=1", sys.executable, *sys.orig_argv[1:]]


def _info(mpi: Any, place: Place) -> Any:
    info = mpi.Info.Create()
    info.Set("wdir", os.getcwd())
    info.Set("host", place.host)
    return info


class _time_limit:
    """Time limit for a block whose calls have none of their own: ends this rank, which would hang."""

    def __init__(self, timeout_s: float, reason: str) -> None:
        self._sentence = f"{reason} within {timeout_s:g} s: this rank ends"
        self._timer = threading.Timer(timeout_s, self._expire)
        self._timer.daemon = True

    def _expire(self) -> None:
        log(self._sentence)
        os._exit(EXIT_RESUMABLE)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
