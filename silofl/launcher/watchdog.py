"""One watchdog process per rank: kills a hung rank and reports a dead one in one line. The rank's side.

`spawn_watchdog` forks before anything heavy is loaded: the child goes on as the rank, and the parent, which
the launcher sees, only watches it (`silofl.launcher.watchdog_process`). The rank reports to a shared page of
memory with plain stores: progress of its main thread, waits for peers, and whether any of its threads runs.
A rank that waits for peers is never silent: its peers may compute.

In a process without a watchdog every call but `spawn_watchdog` has no effect.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple

from silofl.launcher import process_tree, watchdog_page, watchdog_process
from silofl.launcher.watchdog_page import (
    ALIVE_TICKS,
    COMMITTED,
    ENDS_JOB,
    HEARTBEATS,
    MPI_READY,
    READY_LIMIT_MS,
    ROUND,
    SILENT_LIMIT_MS,
    SILO,
    WAIT_DEPTH,
    WAITS,
)
from silofl.launcher.zygote import standing

ALIVE_TICK_S = 0.2
MPI_READY_TIMEOUT_S = 600.0
"""Time limit for all ranks to initialise MPI, which they do before anything heavy is loaded."""
RESPAWNED = "SILOFL_RESPAWNED"
"""Environment variable of a respawned process: the survivors wait for it with a time limit."""
_PR_SET_PDEATHSIG = 1

_page = watchdog_page.private_page()
_main_thread = threading.main_thread().ident
_state = {"has_watchdog": False, "ticking": False}


def spawn_watchdog(rank: int, *, survivors_go_on: bool) -> None:
    """Fork: return in the child, which is the rank from here on; the parent watches and never returns.

    Call it before threads, NumPy or MPI exist. Signals that the parent gets are forwarded to the child, and
    the child dies with the parent. `survivors_go_on`: the launcher keeps the other ranks when one dies of a
    signal (ULFM), so the parent dies of the same one; else it reports the death in one line and exits with
    code 75. Does nothing where the operating system is not Linux.
    """
    if sys.platform != "linux":
        return
    parent, launcher = os.getppid(), process_tree.launcher_pid()  # they may be gone when the watchdog looks
    page = watchdog_page.new_page()
    page[READY_LIMIT_MS] = round(MPI_READY_TIMEOUT_S * 1000)
    page[MPI_READY] = RESPAWNED in os.environ
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, watchdog_process.QUEUED_SIGNALS)  # none lost at the fork
    watchdog = os.getpid()
    child = os.fork()
    if child:
        watchdog_process.watch(
            child, page, rank, parent, launcher, survivors_go_on=survivors_go_on, stub=standing.stub()
        )
    _die_with(watchdog)
    process_tree.started_by(launcher)
    stub = standing.stub()
    if stub is not None:
        stub.leave_to_watchdog()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    global _page, _main_thread
    _page, _main_thread = page, threading.get_ident()
    _state["has_watchdog"] = True


def has_watchdog() -> bool:
    """Return whether this process has a watchdog, which is then its parent."""
    return _state["has_watchdog"]


def start(*, silent_s: float, silo: int, resume: str) -> None:
    """Kill this rank from now on where it is silent for `silent_s` seconds, until `stop`.

    It is silent while no thread of it runs, and while its main thread neither calls `heartbeat` nor waits for
    peers. Both count from the first `report_round` on, or where a signal has stopped it: loading libraries
    and data may take any time. `silo` and `resume`, advice such as "start the same command with --resume", go
    into the report of its death.
    """
    watchdog_page.write_advice(_page, resume)
    _page[SILO] = silo
    _page[SILENT_LIMIT_MS] = math.ceil(silent_s * 1000)
    if has_watchdog() and not _state["ticking"]:
        _state["ticking"] = True
        period = min(ALIVE_TICK_S, silent_s / 8)
        threading.Thread(target=_tick, args=(period,), name="silofl-alive", daemon=True).start()


def stop() -> None:
    """Lift the limit of `start`: the rank has left its rounds, and what follows has its own time limits."""
    _page[SILENT_LIMIT_MS] = 0


def mpi_ready() -> None:
    """Report that all ranks have initialised MPI, so survivors detect a death of this one from here on."""
    _page[MPI_READY], _page[READY_LIMIT_MS] = 1, 0


def ends_job() -> None:
    """Report that this rank has the launcher end the job; `launcher_end` ends one that then does not."""
    _page[ENDS_JOB] = 1


@contextmanager
def ready_within(limit_s: float) -> Iterator[None]:
    """Kill this rank if the block takes more than `limit_s` seconds, whatever it does."""
    _page[READY_LIMIT_MS] = round(limit_s * 1000)
    try:
        yield
    finally:
        _page[READY_LIMIT_MS] = 0


def report_round(round_number: int, committed: int) -> None:
    """Report the current round, from 1, and the last one that is known to be committed, or 0."""
    _page[ROUND], _page[COMMITTED] = round_number, committed
    heartbeat()


def heartbeat() -> None:
    """Report progress of the main thread. Cheap enough for every training step."""
    _page[HEARTBEATS] += 1


class Progress(NamedTuple):
    """What this rank's main thread does."""

    heartbeats: int
    """How often it has made progress."""
    waiting: bool
    """Whether it waits for peers."""
    in_rounds: bool
    """Whether rounds have begun: before, libraries and data may take any time."""
    waits: int = 0
    """How many waits for peers it has begun, one within another counted once."""


def progress() -> Progress:
    """Return what this rank's main thread does now."""
    return Progress(_page[HEARTBEATS], _page[WAIT_DEPTH] > 0, _page[ROUND] > 0, _page[WAITS])


def on_main_thread() -> bool:
    """Return whether the caller is the thread whose waits for peers count."""
    return threading.get_ident() == _main_thread


class _Waiting:
    """Depth of the main thread's waits for peers; waits of other threads do not count."""

    def __enter__(self) -> None:
        if threading.get_ident() == _main_thread:
            _page[WAITS] += _page[WAIT_DEPTH] == 0
            _page[WAIT_DEPTH] += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.get_ident() == _main_thread:
            _page[WAIT_DEPTH] -= 1
            _page[HEARTBEATS] += 1


_waiting = _Waiting()


def waiting() -> _Waiting:
    """Return a context in which the main thread waits for peers, and may do so for as long as they take.

    Re-entrant, and without effect on other threads.
    """
    return _waiting


def _tick(period_s: float) -> None:
    """Report for ever that threads of this process run."""
    while True:
        _page[ALIVE_TICKS] += 1
        time.sleep(period_s)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, for the launcher knows of the parent only."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call took effect
        os.kill(os.getpid(), signal.SIGKILL)
