"""Respawn of failed ranks: survivors start new processes, which rejoin the communicator when ready.

By MPI_Comm_spawn and MPI_Intercomm_merge (MPI 4.1, sections 11.8 and 7.6). Between the two a respawned
process sends a claim, and every survivor judges it. Both sides have a time limit: a side that is late, or
fails, is given up by the other.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from silofl.comm import mpi_library
from silofl.comm.collective_errors import allgather_object
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import RankFailedError
from silofl.console import log
from silofl.errors import EXIT_RESUMABLE, MismatchError
from silofl.launcher import watchdog
from silofl.launcher.environment import RANK_VARIABLES

SPAWN_TIMEOUT_S = 60.0
"""Time limit for launcher and MPI to start a process; MPI_Comm_spawn has none of its own."""
LONGEST_CLAIM = 1 << 16
"""Bytes; a process that sends more is given up."""
_late: list[Any] = []
"""Receptions that were given up: MPI may write into their memory until the process ends."""


@dataclass(frozen=True)
class Place:
    """One rank's host and command line. Other ranks keep it; nobody prints it, for it holds paths."""

    host: str
    local_rank: int
    """Its index among the ranks of its node."""
    folder: str = field(default="", repr=False)
    """Its working directory."""
    arguments: tuple[str, ...] = field(default=(), repr=False)
    """What the program `env` starts it by: its variables, Python, and Python's own arguments."""

    @classmethod
    def own(cls, local_rank: int) -> Place:
        """This process's."""
        unset = [word for name in RANK_VARIABLES if name not in os.environ for word in ("-u", name)]
        given = [f"{name}={os.environ[name]}" for name in RANK_VARIABLES if name in os.environ]
        command = [sys.executable, *sys.orig_argv[1:]]
        arguments = (*unset, *given, f"{watchdog.RESPAWNED}=1", *command)
        return cls(socket.gethostname(), local_rank, os.getcwd(), arguments)

    def told(self, path: Path) -> str:
        """How other ranks are told of a folder: one below its working directory, from there."""
        return str(path.relative_to(self.folder) if path.is_relative_to(self.folder) else path)

    def to_json(self) -> list[object]:
        """As a message."""
        return [self.host, self.local_rank, self.folder, list(self.arguments)]

    @classmethod
    def from_json(cls, told: Sequence[object]) -> Place:
        """From a message."""
        host, local_rank, folder, arguments = told
        assert isinstance(local_rank, int)
        assert isinstance(arguments, list)
        return cls(str(host), local_rank, str(folder), tuple(map(str, arguments)))


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
    challenge: str
    """What its claim has to answer, in hexadecimal."""
    told: dict[str, str]
    """What it needs to know of the run to answer: nothing that is secret."""


class Respawned(NamedTuple):
    """What became of it, the same on all survivors that know."""

    comm: MpiCommunicator | None
    """Of all ranks, in the order of their silo ids; None where the silos have not rejoined."""
    refusal: str = ""
    """Why they were refused; empty where they were late or failed."""


class RefusedError(MismatchError):
    """The survivors do not take this silo in, and know that it stays away."""


Judge = Callable[[int, bytes], str]
"""judge(silo, claim) says why this survivor refuses a silo's claim, whose padding of zeros was cut off; an
empty text accepts it."""


def respawn(
    comm: MpiCommunicator,
    numbers: Sequence[int],
    places: Sequence[Place],
    *,
    timeout_s: float,
    told: Mapping[str, str],
    challenge: bytes,
    judge: Judge,
) -> Respawned:
    """Respawn the silos `numbers`, each by its own command line, and wait until they join; collective.

    `places` has every silo's, by silo id. A silo may be started, ready and refused: none joins unless every
    survivor's `judge` accepts its claim, which answers `challenge` and may use what is `told`. They are given
    up when they are not ready after `timeout_s` seconds. The respawned processes call `spawned_by`, then
    `join`.
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
                [list(places[number].arguments) for number in numbers],
                [1] * len(numbers),
                [_info(mpi, places[number], first=number == numbers[0]) for number in numbers],
                root=0,
            )
        members = tuple(sorted((*comm.members, *numbers)))
        infos = [
            SpawnInfo(
                number,
                members,
                comm.members[0],
                places[number].local_rank,
                len(places),
                challenge.hex(),
                dict(told),
            )
            for number in numbers
        ]
        root = mpi.ROOT if comm.rank == 0 else mpi.PROC_NULL
        with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S + timeout_s, "a respawned silo did not rejoin"):
            _send(between, json.dumps([asdict(one) for one in infos]).encode(), root)
            claims = [_claim(between, rank, timeout_s) for rank in range(len(numbers))]
            refusal = _refusal(comm, numbers, claims, judge)
            if refusal is not None:
                _send(between, refusal.encode(), root)
                if refusal:
                    return Respawned(None, refusal)
                return Respawned(_merge(comm, between, False, comm.members[comm.rank], members))
    except (mpi.Exception, RankFailedError):
        pass  # a rank of either side failed; the survivors' own communicator finds out which
    if between is not None:
        between.Revoke()
    return Respawned(None)


def _claim(between: Any, rank: int, timeout_s: float) -> bytes | None:
    """The claim of a respawned process, the `rank`-th of them; None where there is none in time."""
    text = np.zeros(LONGEST_CLAIM, np.uint8)
    reception = between.Irecv(text, rank)
    if wait_with_backoff([reception], timeout_s):
        return text.tobytes().rstrip(b"\0")
    _late.append(reception)
    return None


def _refusal(
    comm: MpiCommunicator, numbers: Sequence[int], claims: list[bytes | None], judge: Judge
) -> str | None:
    """The first refusal of any survivor, empty without one; None where one has no claim. Collective."""
    own: list[str] | None = None
    if None not in claims:
        own = [judge(number, claim or b"") for number, claim in zip(numbers, claims, strict=True)]
    every = allgather_object(comm, own)
    return None if None in every else next((text for texts in every for text in texts if text), "")


def _send(between: Any, text: bytes, root: int) -> None:
    """To all ranks of the other side."""
    between.Bcast(np.array([len(text)], np.int64), root)
    between.Bcast(np.frombuffer(text, np.uint8).copy(), root)


def _receive(between: Any) -> bytes:
    """What the other side's first rank sends."""
    length = np.empty(1, np.int64)
    between.Bcast(length, 0)
    text = np.empty(int(length[0]), np.uint8)
    between.Bcast(text, 0)
    return text.tobytes()


def spawned_by() -> SpawnInfo | None:
    """The silo that this process was respawned as; None in one that the launcher started. Collective."""
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    if between == mpi.COMM_NULL:
        return None
    # Where the other side failed, Open MPI may look for its address for ever, in the middle of any call.
    with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S, "this respawned silo got no first message"):
        text = _receive(between)
    own = json.loads(text)[mpi.COMM_WORLD.rank]
    return SpawnInfo(**own | {"members": tuple(own["members"])})


def join(comm: MpiCommunicator, spawn_info: SpawnInfo, claim: bytes) -> MpiCommunicator:
    """Rejoin: the communicator of all ranks, once this process is ready; collective with `respawn`.

    Raises RefusedError where a survivor refuses the `claim`, RankFailedError where they do not wait any more.
    """
    mpi = mpi_library.load()
    between = mpi.Comm.Get_parent()
    try:
        with watchdog.waiting(), _time_limit(SPAWN_TIMEOUT_S, "the survivors did not accept this silo"):
            text = np.frombuffer(claim, np.uint8).copy()
            wait_with_backoff([between.Isend(text, rank) for rank in range(between.remote_size)])
            refusal = _receive(between).decode()
            if refusal:
                raise RefusedError(refusal)
            return _merge(comm, between, True, spawn_info.number, spawn_info.members)
    except mpi.Exception as error:
        raise RankFailedError("the survivors went on without this silo") from error


def _merge(
    comm: MpiCommunicator, between: Any, high: bool, number: int, members: tuple[int, ...]
) -> MpiCommunicator:
    ordered = between.Merge(high).Split(0, number)
    return comm.successor(ordered, members)


def _info(mpi: Any, place: Place, *, first: bool) -> Any:
    info = mpi.Info.Create()
    info.Set("wdir", place.folder)
    info.Set("host", place.host)
    if first:  # Open MPI takes these for the whole of what is spawned, and once only
        info.Set("map_by", ":OVERSUBSCRIBE")  # a dead rank's slot stays taken
        info.Set("bind_to", "none")
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
