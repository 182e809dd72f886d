"""The watchdog's own side: a small process that kills its rank where it hangs and reports its death.

It loads nothing but the standard library, starts no thread, and counts seconds in its own ticks, so that
neither a suspended machine nor a stopped job makes a healthy rank look silent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import time
import traceback
from pathlib import Path
from typing import NoReturn

from silofl.errors import EXIT_RESUMABLE
from silofl.launcher import launcher_end
from silofl.launcher.exit_status import write_exit_status
from silofl.launcher.watchdog_page import (
    ADVICE_LENGTH,
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
    Page,
    read_advice,
)
from silofl.launcher.zygote.standing import Stub

FORWARDED_SIGNALS = frozenset(
    {signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
TERMINATION_SIGNALS = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
"""Signals by which a launcher itself ends its ranks."""
QUEUED_SIGNALS = FORWARDED_SIGNALS | {signal.SIGINT, signal.SIGTSTP, signal.SIGCHLD}
"""Signals that the watchdog blocks and takes from its queue, so that none interrupts it."""

TICK_S = 0.1
UNKILLABLE_TICKS = 100
"""Ticks after which a rank that SIGKILL does not end, for it is stuck in a driver, is left to the kernel."""

PRINT_GRACE_S = 0.3

_PR_SET_DUMPABLE = 4


def watch(
    child: int,
    page: Page,
    rank: int,
    parent: int,
    launcher: int,
    *,
    survivors_go_on: bool,
    stub: Stub | None = None,
) -> NoReturn:
    """Watch the process `child` to its end, and end as it did; see `watchdog.spawn_watchdog`.

    `parent` is this process's; `launcher` started it, or, where this is a zygote's fork, the `stub`.
    """
    try:
        _release_resources(stub)
        RankMonitor(child, page, rank, parent, launcher, survivors_go_on=survivors_go_on, stub=stub).run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class RankMonitor:
    """Monitor of one rank: its signals, its state, and its silence."""

    def __init__(
        self,
        child: int,
        page: Page,
        rank: int,
        parent: int,
        launcher: int,
        *,
        survivors_go_on: bool,
        stub: Stub | None = None,
    ) -> None:
        self._child, self._page, self._rank, self._stub = child, page, rank, stub
        self._survivors_go_on, self._parent, self._launcher = survivors_go_on, parent, launcher
        self._received: set[int] = set()
        self._stopped = self._held = False
        self._ticks_since_kill: int | None = None
        self._heartbeats, self._alive, self._unready = (-1, -1), (-1, -1), (-1, -1)
        """A counter's last value and for how many ticks it has not moved."""

    def run(self) -> NoReturn:
        """Handle signals, changes of state and ticks as they come; never return."""
        while True:
            info = signal.sigtimedwait(QUEUED_SIGNALS, TICK_S)
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._forward(info)
            self._reap()
            if info is None:
                self._tick()

    def _forward(self, info: signal.struct_siginfo) -> None:
        """Forward a signal that only the watchdog got, or may have: twice does no harm.

        SIGINT twice would, for it interrupts its own handling. Terminals and launchers send it to the whole
        process group. SIGTSTP stops the rank even where the kernel would not stop its group.
        """
        number = info.si_signo
        self._received.add(number)
        to_group = info.si_pid in {0, self._parent, self._launcher, self._started()}
        if number in FORWARDED_SIGNALS or (number == signal.SIGINT and not to_group):
            os.kill(self._child, number)
        elif number == signal.SIGTSTP:
            os.kill(self._child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)

    def _reap(self) -> None:
        """Take the rank's changes of state since the last call; end where it has ended."""
        while True:
            pid, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return
            if os.WIFEXITED(status):
                if self._page[ENDS_JOB]:
                    launcher_end.end_later(self._launcher, self._started())
                self._exit(os.WEXITSTATUS(status))
            if os.WIFSIGNALED(status):
                self._end_by_signal(os.WTERMSIG(status))
            self._stopped = os.WIFSTOPPED(status)

    def _end_by_signal(self, number: int) -> NoReturn:
        """End this process after the rank died of a signal: by the same signal, or with a report."""
        received = self._received | signal.sigpending()
        stop_requested = number == signal.SIGUSR1
        unnoticed = (  # survivors would wait for it in MPI_Init, and ULFM's launcher lets them
            self._survivors_go_on
            and not self._page[MPI_READY]
            and (stop_requested or not received & TERMINATION_SIGNALS)
        )
        if (self._survivors_go_on or number in received) and not unnoticed:
            if self._stub is not None:
                self._stub.tell_killed(number)
            die_of(number)
        if self._ticks_since_kill is None:
            name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
            self._report(f"was killed by {name} {self._where()}{self._advice()}")
        if unnoticed:
            write_exit_status(EXIT_RESUMABLE, stop_requested=stop_requested)
            if self._has_launcher():
                with contextlib.suppress(OSError):  # it may be the system's
                    os.kill(self._launcher, signal.SIGTERM)
        _abort_hydra_job()
        self._exit(EXIT_RESUMABLE)

    def _exit(self, code: int) -> NoReturn:
        if self._stub is not None:
            self._stub.tell_exit(code)
        os._exit(code)

    def _started(self) -> int:
        """The process that the launcher started."""
        return os.getpid() if self._stub is None else self._stub.pid

    def _has_launcher(self) -> bool:
        return os.getppid() == self._parent if self._stub is None else not self._stub.lost_launcher()

    def _tick(self) -> None:
        """Count silent ticks; kill the rank at a limit, and give it up where it cannot be killed."""
        if self._ticks_since_kill is not None:
            self._ticks_since_kill += 1
            if self._ticks_since_kill >= UNKILLABLE_TICKS:
                self._end_by_signal(signal.SIGKILL)
            return
        if self._stub is not None and self._follow(self._stub):
            return
        self._count_silence()
        silent_limit_ms, ready_limit_ms = self._page[SILENT_LIMIT_MS], self._page[READY_LIMIT_MS]
        if _milliseconds(max(self._heartbeats[1], self._alive[1])) >= silent_limit_ms > 0:
            seconds, reason = silent_limit_ms / 1000, self._silence_reason(silent_limit_ms)
            self._kill(f"was silent for {seconds:g} s {self._where()} ({reason})")
        elif _milliseconds(self._unready[1]) >= ready_limit_ms > 0:
            self._kill(f"was not ready after {ready_limit_ms / 1000:g} s {self._where()}")
        elif not self._has_launcher():
            self._kill(f"lost its launcher {self._where()}")

    def _follow(self, stub: Stub) -> bool:
        """Stop and go on with the stub, and die with it, as does all that the rank has started.

        Returns whether it is stopped.
        """
        if stub.gone():
            os.killpg(0, signal.SIGKILL)
        if stub.stopped() != self._held:
            self._held = not self._held
            os.kill(self._child, signal.SIGSTOP if self._held else signal.SIGCONT)
        return self._held

    def _count_silence(self) -> None:
        page = self._page
        computes = page[SILENT_LIMIT_MS] and page[ROUND] and page[WAIT_DEPTH] <= 0
        self._heartbeats = _count_still(self._heartbeats, page[HEARTBEATS], counts=bool(computes))
        # While libraries are loaded and data is read, no thread may run for long: only a stop counts then.
        in_rounds = bool(page[ROUND]) or self._stopped
        self._alive = _count_still(self._alive, page[ALIVE_TICKS], counts=in_rounds)
        limit = page[READY_LIMIT_MS]
        self._unready = _count_still(self._unready, limit, counts=limit > 0)

    def _silence_reason(self, limit_ms: int) -> str:
        if self._stopped:
            return "stopped by a signal"
        no_thread = _milliseconds(self._alive[1]) >= limit_ms
        return "none of its threads runs" if no_thread else "its main thread makes no progress"

    def _kill(self, reason: str) -> None:
        """Kill the rank and report why; `_reap` sees it die."""
        self._report(f"{reason}: killed{'' if self._survivors_go_on else self._advice()}")
        self._ticks_since_kill = 0
        os.kill(self._child, signal.SIGKILL)

    def _report(self, sentence: str) -> None:
        in_run = self._page[ADVICE_LENGTH] > 0
        name = f"silo {self._page[SILO]} (rank {self._rank})" if in_run else f"rank {self._rank}"
        with contextlib.suppress(OSError):  # standard error may be closed
            os.write(2, f"silofl: {name} {sentence}\n".encode())

    def _where(self) -> str:
        number = self._page[ROUND]
        return f"in round {number}" if number else "before its first round"

    def _advice(self) -> str:
        committed = self._page[COMMITTED]
        known = f"; rounds up to {committed} are certainly committed" if committed else ""
        return f"{known}: {read_advice(self._page) or 'start the same command again'}"


def _count_still(last: tuple[int, int], value: int, *, counts: bool) -> tuple[int, int]:
    """A counter's new value, and for how many ticks that count it has not moved."""
    return (value, last[1] + 1) if counts and value == last[0] else (value, 0)


def _milliseconds(ticks: int) -> float:
    return ticks * TICK_S * 1000


def _release_resources(stub: Stub | None) -> None:
    """Close the rank's descriptors, and set a process name of its own.

    All but Hydra's connection: were it closed with the rank, Hydra would kill the job before the report.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave nothing to wait for
    kept = {0, 1, 2, _hydra_socket(), None if stub is None else stub.fileno()}
    with contextlib.suppress(OSError):  # no /proc in this container
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in kept:
                with contextlib.suppress(OSError):  # the listing's own is closed already
                    os.close(number)
        Path("/proc/self/comm").write_text("silofl-watchdog", encoding="ascii")


def _hydra_socket() -> int | None:
    """The descriptor of a rank's connection to Hydra, the launcher of MPICH; None under other launchers."""
    number = os.environ.get("PMI_FD", "")
    with contextlib.suppress(OSError):
        if number.isdecimal() and stat.S_ISSOCK(os.fstat(int(number)).st_mode):
            return int(number)
    return None


def _abort_hydra_job() -> None:
    """Have Hydra end the job with our exit code, as MPI_Abort does (`cmd=abort` of the PMI-1 wire protocol).

    By itself it combines the exit codes of all ranks, most of which it kills.
    """
    socket = _hydra_socket()
    if socket is not None:
        time.sleep(PRINT_GRACE_S)  # Hydra does not wait for what ranks have printed
        with contextlib.suppress(OSError):
            os.write(socket, f"cmd=abort exitcode={EXIT_RESUMABLE} message=abort\n".encode())


def die_of(number: int) -> NoReturn:
    """End this process by a signal, as its rank ended; only the rank's memory is worth a core dump."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    signal.pause()
    os._exit(128 + number)
