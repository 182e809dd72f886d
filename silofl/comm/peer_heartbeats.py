"""Heartbeats between ranks: one that lives and does nothing is noticed by the others, watchdog or not.

A thread of each rank tells all others now and then that its main thread makes progress or waits for peers, by
small messages over a communicator of their own, which the failure of a third rank does not end. MPI reports
only processes that died, and a rank's watchdog kills one that hangs: where that is missing, or off on
purpose, this is what bounds the wait of all others.
"""

from __future__ import annotations

import atexit
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self

import numpy as np

from silofl.comm import mpi_library
from silofl.comm.mpi import MpiCommunicator
from silofl.comm.protocol import Communicator
from silofl.comm.shutdown import PRINT_GRACE_S, stagger
from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher import watchdog

TICK_S = 0.5
MAX_PERIOD_S = 10.0
PERIODS = 16
"""How many messages are due within a limit: one that is late is no silence."""
SETUP_SILENT_S = 60.0
"""Least limit before rounds begin: a library that is being loaded may let no other thread run for a while."""
TOLD = 3
"""Numbers of a message."""
ENDING = -1
"""Told instead of a number of heartbeats by a rank that ends the job, with the exit code."""
_dropped: list[Any] = []
"""Messages of communicators that were replaced: MPI may touch their memory until the process ends."""


class Limits(NamedTuple):
    """After how long the job ends, in seconds of this rank's own running time."""

    silent_s: float
    """Without a sign of life from a rank."""
    stalled_s: float
    """With signs of life, in which every rank says that it waits for the others: that behind all is named."""


class PeerHeartbeats:
    """One rank's heartbeats to all others, and its watch over theirs; nothing where ranks are threads.

    Every rank makes one, at the same place, before `connect`; from then on it follows the communicators that
    replace this one.
    """

    def __init__(self, comm: Communicator, limits: Limits) -> None:
        self._limits = limits
        period = min(MAX_PERIOD_S, limits.silent_s / PERIODS)
        self._tick_s = min(TICK_S, period)
        self._every = max(1, int(period / self._tick_s))
        self._watched = watchdog.on_main_thread()
        self._link: _Link | None = None
        self._ending = 0
        """With which exit code another rank ends the job; 0 where none does."""
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="silofl-peers", daemon=True)
        if isinstance(comm, MpiCommunicator):
            comm.on_replace(self.connect)

    def connect(self, comm: Communicator) -> None:
        """Go on with the ranks of `comm`. Collective."""
        if not isinstance(comm, MpiCommunicator) or self._closed.is_set():
            return
        link = _Link(comm.duplicate().outlast_failures(), self._every)
        with self._lock:
            self._drop()
            self._link = link
        if not self._thread.is_alive():
            mpi_library.before_abort.append(self.announce_end)
            atexit.register(self.close)  # before MPI is finalized
            self._thread.start()

    def close(self) -> None:
        """Stop telling and watching: what follows has time limits of its own. Not collective."""
        self._closed.set()
        with self._lock:
            self._drop()
        if self.announce_end in mpi_library.before_abort:
            mpi_library.before_abort.remove(self.announce_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close it, unless this rank alone raises: then it ends the job, and the others have to hear that."""
        if error is None or getattr(error, "rank", None) is not None:
            self.close()

    def announce_end(self, exit_code: int) -> None:
        """Have the other ranks end with this code, too: under ULFM an abort reaches none that is waiting."""
        if self._lock.acquire(timeout=1.0):
            try:
                if self._link is not None:
                    self._link.announce_end(exit_code)
            finally:
                self._lock.release()

    def _drop(self) -> None:
        if self._link is not None:
            self._link.cancel()
            self._link = None

    def _run(self) -> None:
        while not self._closed.wait(self._tick_s):
            with self._lock:
                sentence, rank = self._tick()
            if sentence:
                stagger(rank)  # every rank may find the same: the first says so and ends all
                with self._lock:
                    sentence, _ = self._tick()
            if sentence:
                log(sentence)
                mpi_library.abort(EXIT_RESUMABLE)
            code = self._ending
            if code and not self._closed.wait(PRINT_GRACE_S):
                mpi_library.abort(code)

    def _tick(self) -> tuple[str, int]:
        """Exchange messages; why the job has to end, or "", and this rank."""
        link = self._link
        if link is None:
            return "", 0
        link.exchange(always=not self._watched)
        self._ending = self._ending or link.ending
        return "" if self._ending else link.reason(self._limits, self._tick_s), link.rank


class _Link:
    """The messages over one communicator: taken in with every tick, sent with some (`every`)."""

    def __init__(self, comm: MpiCommunicator, every: int) -> None:
        self._every, self._age, self._alive = every, 0, True
        self._comm, self.rank, self._members = comm.handle, comm.rank, comm.members
        self.error: type[BaseException] = comm.mpi_error
        self._peers = [rank for rank in range(comm.size) if rank != comm.rank]
        self._outgoing = np.zeros(TOLD, np.int64)
        self._incoming = np.zeros((comm.size, TOLD), np.int64)
        self._waits = watchdog.progress().waits
        """Of this rank when the communicator was made: all ranks count from the same collective on."""
        self._sends: dict[int, Any] = {}
        self._receives = {rank: self._receive(rank) for rank in self._peers}
        self._quiet = dict.fromkeys(self._peers, 0)
        """Ticks since a rank's last sign of life."""
        self._told = dict.fromkeys(range(comm.size), (0, 0, 0))
        """Each rank's heartbeats, whether it waits, and how many waits it has begun, as it told them last."""
        self._in_rounds = False
        self._stalled = 0
        """Ticks since any rank told of progress, or did not wait."""
        self.ending = 0
        """The exit code with which a rank ends the job."""

    def _receive(self, rank: int) -> Any:
        return self._comm.Irecv(self._incoming[rank], rank)

    def exchange(self, *, always: bool) -> None:
        """Tell all that this rank is alive, if it is, and take in what they told."""
        now = watchdog.progress()
        self._in_rounds = now.in_rounds
        own = (now.heartbeats, int(now.waiting), now.waits - self._waits)
        moved = self._take(self.rank, own)
        self._alive |= always or moved or now.waiting or not now.in_rounds
        self._age += 1
        if self._alive and self._age % self._every == 0:
            self._alive = False
            self._send(own)
        for rank in tuple(self._peers):
            try:
                moved |= self._hear(rank)
            except self.error:
                self._lose(rank)
        all_wait = all(waiting for _, waiting, _ in self._told.values())
        self._stalled = 0 if moved or not all_wait or not self._peers else self._stalled + 1

    def _hear(self, rank: int) -> bool:
        """Take in what a rank has told since; whether it has made progress."""
        moved = False
        self._quiet[rank] += 1
        while self._receives[rank].Test():
            self._quiet[rank] = 0
            heartbeats, waiting, waits = map(int, self._incoming[rank])
            moved |= self._take(rank, (heartbeats, waiting, waits))
            self._receives[rank] = self._receive(rank)
        return moved

    def _lose(self, rank: int) -> None:
        """Leave out a rank that failed: the others' silence is still noticed, while they recover, too."""
        self._peers.remove(rank)
        for of_ranks in (self._quiet, self._told, self._receives, self._sends):
            of_ranks.pop(rank, None)

    def _take(self, rank: int, told: tuple[int, int, int]) -> bool:
        """Note what a rank told; whether it has made progress."""
        if told[0] == ENDING:
            self.ending = told[1] if 0 < told[1] < 256 else 1
        before, self._told[rank] = self._told[rank], told
        return told[0] != before[0]

    def _send(self, own: tuple[int, int, int], *, last: bool = False) -> None:
        """Tell all ranks, but one that has not taken in the message before, unless it is the `last`."""
        for rank in tuple(self._sends):
            self._try(rank, lambda rank=rank: self._forget_sent(rank))  # type: ignore[misc]
        if self._sends:
            _dropped.append((self._outgoing, dict(self._sends)))
            self._outgoing = np.zeros(TOLD, np.int64)
        self._outgoing[:] = own
        for rank in tuple(self._peers):
            if last or rank not in self._sends:
                self._try(rank, lambda rank=rank: self._send_to(rank))  # type: ignore[misc]

    def _forget_sent(self, rank: int) -> None:
        if self._sends[rank].Test():
            del self._sends[rank]

    def _send_to(self, rank: int) -> None:
        self._sends[rank] = self._comm.Isend(self._outgoing, rank)

    def _try(self, rank: int, work: Callable[[], None]) -> None:
        """Do something with a rank, which is left out where it has failed."""
        try:
            work()
        except self.error:
            self._lose(rank)

    def reason(self, limits: Limits, tick_s: float) -> str:
        """Why the job has to end; empty where it need not."""
        silent_s = limits.silent_s if self._in_rounds else max(limits.silent_s, SETUP_SILENT_S)
        silent = [
            str(self._members[rank])
            for rank, ticks in self._quiet.items()
            if ticks >= math.ceil(silent_s / tick_s)
        ]
        if silent:
            who = f"silo {silent[0]} has" if len(silent) == 1 else f"silos {', '.join(silent)} have"
            return (
                f"{who} shown no progress for {silent_s:g} s and nothing has ended the process: all "
                "silos end; start the same command with --resume"
            )
        if self._stalled >= math.ceil(limits.stalled_s / tick_s):
            return (
                f"every silo has said for {limits.stalled_s:g} s that it waits for the others, and "
                f"{self._furthest_behind()}: all silos end; start the same command with --resume"
            )
        return ""

    def _furthest_behind(self) -> str:
        """The ranks that have begun the fewest waits: the others are in a later one already."""
        fewest = min(waits for _, _, waits in self._told.values())
        behind = sorted(rank for rank, (_, _, waits) in self._told.items() if waits == fewest)
        if len(behind) == len(self._told):
            return "all in the same exchange, which the network has lost"
        silos = ", ".join(str(self._members[rank]) for rank in behind)
        return f"silo {silos} holds them back" if len(behind) == 1 else f"silos {silos} hold them back"

    def announce_end(self, exit_code: int) -> None:
        """Tell all that this rank ends the job, unless another has told so before."""
        if not self.ending:
            self._send((ENDING, exit_code, 0), last=True)

    def cancel(self) -> None:
        """Give up what is under way."""
        for request in self._receives.values():
            with suppress(self.error):
                request.Cancel()
        _dropped.append(self)
