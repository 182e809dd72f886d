"""A process beside each rank that turns a wedge into a death, and a death into one sentence.

`spawn_watchdog` forks before anything heavy is loaded: the child goes on as the rank, and the parent, which
the launcher sees, does nothing but watch it (`silofl.launcher.watchdog_process`). They share one page of
memory, which the rank writes with plain stores: how often its main thread made progress, whether it waits for
peers, whether any of its threads runs at all. A rank that waits for peers is never silent: its peers may
compute.

Every call but `spawn_watchdog` does nothing that anyone sees in a process without a watchdog.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from silofl.launcher import watchdog_process
from silofl.launcher.watchdog_process import (
    ALIVE,
    BEATS,
    COMMITTED,
    LIMIT_MS,
    MET,
    READY_MS,
    ROUND,
    SILO,
    WAITS,
    Cells,
)

ALIVE_S = 0.2
MET_S = 600.0
"""Within so long all ranks have met in MPI_Init; they go there before anything heavy is loaded."""
RESPAWNED = "SILOFL_RESPAWNED"
"""Tells a process that is started in a lost rank's place: the others wait for it with a time limit."""
_PR_SET_PDEATHSIG = 1

_cells: Cells = memoryview(bytearray(mmap.PAGESIZE)).cast(
    "q"
)  # a page that nobody reads, until `spawn_watchdog`
_main_thread = threading.main_thread().ident
_state = {"guarded": False, "ticking": False}


def spawn_watchdog(rank: int, *, survivors_go_on: bool) -> None:
    """Fork: return in the child, which is the rank from here on; the parent watches and never returns.

    Call it before threads, NumPy or MPI exist. Signals that the parent gets reach the child, and the child
    dies with the parent. `survivors_go_on`: the launcher keeps the other ranks when one dies of a signal
    (ULFM), so that the parent dies of the same one; else it says in one sentence what happened and exits
    with code 75. Does nothing where the operating system is not Linux.
    """
    if sys.platform != "linux":
        return
    launcher = os.getppid()  # before the rank runs: it may be gone when the watchdog looks
    page = memoryview(mmap.mmap(-1, mmap.PAGESIZE))
    page.cast("q")[READY_MS] = round(MET_S * 1000)
    page.cast("q")[MET] = RESPAWNED in os.environ
    mask = signal.pthread_sigmask(
        signal.SIG_BLOCK, watchdog_process.HEARD
    )  # none is lost between fork and watch
    watchdog = os.getpid()
    child = os.fork()
    if child:
        watchdog_process.watch(child, page, rank, launcher, survivors_go_on=survivors_go_on)
    _die_with(watchdog)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    global _cells, _main_thread
    _cells, _main_thread = page.cast("q"), threading.get_ident()
    _state["guarded"] = True


def guarded() -> bool:
    """Whether this process has a watchdog, which is then its parent."""
    return _state["guarded"]


def start(*, silent_s: float, silo: int, resume: str) -> None:
    """End this rank from now on if it says nothing for `silent_s` seconds, until `stop`.

    It says nothing while no thread of it runs, and while its main thread neither beats nor waits for peers.
    Both count from the first `report_round` on, or where a signal has stopped it: nobody knows how long the
    loading of libraries and data may take. `silo` and `resume`, words such as "start the same command with
    --resume", go into the sentence.
    """
    watchdog_process.write_text(_cells, resume)
    _cells[SILO] = silo
    _cells[LIMIT_MS] = math.ceil(silent_s * 1000)
    if guarded() and not _state["ticking"]:
        _state["ticking"] = True
        period = min(ALIVE_S, silent_s / 8)
        threading.Thread(target=_tick, args=(period,), name="silofl-alive", daemon=True).start()


def mpi_ready() -> None:
    """All ranks have met: a death from here on is not waited for by ranks that cannot know of it."""
    _cells[MET], _cells[READY_MS] = 1, 0


@contextmanager
def ready_within(limit_s: float) -> Iterator[None]:
    """Within: end this rank where it takes longer, whatever it does."""
    _cells[READY_MS] = round(limit_s * 1000)
    try:
        yield
    finally:
        _cells[READY_MS] = 0


def stop() -> None:
    """Judge silence no more: the rank has left its rounds, and what follows has limits of its own."""
    _cells[LIMIT_MS] = 0


def report_round(round_number: int, committed: int) -> None:
    """Note the round under way, from 1, and the last one that is known to be committed, or 0."""
    _cells[ROUND], _cells[COMMITTED] = round_number, committed
    heartbeat()


def heartbeat() -> None:
    """Note that the main thread made progress. Cheap enough for every training step."""
    _cells[BEATS] += 1


class _Waiting:
    """Counts how deep the main thread is in waits for peers; other threads' waits do not count."""

    def __enter__(self) -> None:
        if threading.get_ident() == _main_thread:
            _cells[WAITS] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.get_ident() == _main_thread:
            _cells[WAITS] -= 1
            _cells[BEATS] += 1


_waiting = _Waiting()


def waiting() -> _Waiting:
    """Return a context in which the main thread waits for peers, and may do so for as long as they take.

    Re-entrant, and without effect on other threads.
    """
    return _waiting


def _tick(period_s: float) -> None:
    """Say that threads of this process still get to run."""
    while True:
        _cells[ALIVE] += 1
        time.sleep(period_s)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, for the launcher knows of the parent alone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before it could matter
        os.kill(os.getpid(), signal.SIGKILL)
