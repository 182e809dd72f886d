"""The watchdog's own side: a small process that waits for one rank, and says and does what is needed.

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
from silofl.launcher.exit_status import write_exit_status

Cells = memoryview  # of int64, one page; the rank writes and the watchdog reads
BEATS, WAITS, ALIVE, LIMIT_MS, READY_MS, MET, SILO, ROUND, COMMITTED, TEXT_LENGTH, TEXT = range(11)

PASSED_ON = frozenset(
    {signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT}
)
ENDING = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM})
"""With these a launcher ends its ranks itself."""
HEARD = PASSED_ON | {signal.SIGINT, signal.SIGTSTP, signal.SIGCHLD}
"""Signals that the watchdog takes from its queue; blocked, so that none interrupts it."""

TICK_S = 0.1
UNKILLABLE_TICKS = 100
"""Ticks after which a rank that SIGKILL does not end, for it is stuck in a driver, is left to the kernel."""

PRINT_GRACE_S = 0.3

_PR_SET_DUMPABLE = 4


def write_text(cells: Cells, text: str) -> None:
    """Put `text` (UTF-8) behind the numbers; what does not fit is left out."""
    room = cells.cast("B")[TEXT * 8 :]
    data = text.encode()[: len(room)]
    room[: len(data)] = data
    cells[TEXT_LENGTH] = len(data)


def read_text(cells: Cells) -> str:
    """What `write_text` put there."""
    return bytes(cells.cast("B")[TEXT * 8 :][: cells[TEXT_LENGTH]]).decode(errors="ignore")


def watch(child: int, page: memoryview, rank: int, launcher: int, *, survivors_go_on: bool) -> NoReturn:
    """Watch the process `child` to its end, and end as it did; see `watchdog.spawn_watchdog`.

    `launcher` is the process that started this one.
    """
    try:
        _become_small()
        Watch(child, page.cast("q"), rank, launcher, survivors_go_on=survivors_go_on).run()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


class Watch:
    """One rank, as its watchdog sees it."""

    def __init__(self, child: int, cells: Cells, rank: int, launcher: int, *, survivors_go_on: bool) -> None:
        self._child, self._cells, self._rank = child, cells, rank
        self._survivors_go_on, self._launcher = survivors_go_on, launcher
        self._heard: set[int] = set()
        self._stopped = False
        self._ended_ticks: int | None = None
        self._beats, self._alive, self._unready = (-1, -1), (-1, -1), (-1, -1)
        """A counter's last value and for how many ticks it has not moved."""

    def run(self) -> NoReturn:
        """Take signals, states and ticks as they come; never returns."""
        while True:
            info = signal.sigtimedwait(HEARD, TICK_S)
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._pass_on(info)
            self._look()
            if info is None:
                self._tick()

    def _pass_on(self, info: signal.struct_siginfo) -> None:
        """Give the rank a signal that reached the watchdog alone, or may have: twice does no harm.

        SIGINT twice would, for it interrupts its own handling. Terminals and launchers send it to the whole
        process group. A rank that suspends stops even where the kernel would not let its group.
        """
        number = info.si_signo
        self._heard.add(number)
        to_group = info.si_pid in {0, os.getppid()}
        if number in PASSED_ON or (number == signal.SIGINT and not to_group):
            os.kill(self._child, number)
        elif number == signal.SIGTSTP:
            os.kill(self._child, signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)

    def _look(self) -> None:
        """Learn what became of the rank since the last look."""
        while True:
            found, status = os.waitpid(self._child, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not found:
                return
            if os.WIFEXITED(status):
                os._exit(os.WEXITSTATUS(status))
            if os.WIFSIGNALED(status):
                self._follow(os.WTERMSIG(status))
            self._stopped = os.WIFSTOPPED(status)

    def _follow(self, number: int) -> NoReturn:
        """End as befits a rank that died of a signal."""
        heard = self._heard | signal.sigpending()
        told_to, asked = number in heard, number == signal.SIGUSR1
        alone = self._survivors_go_on and not self._cells[MET] and (asked or not heard & ENDING)
        if (self._survivors_go_on or told_to) and not alone:
            _die_of(number)
        if self._ended_ticks is None:
            name = signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"
            self._say(f"was killed by {name} {self._where()}{self._what_now()}")
        if alone:  # the others wait for it in MPI_Init, and ULFM's launcher lets them
            write_exit_status(EXIT_RESUMABLE, asked=asked)
            if os.getppid() == self._launcher:
                with contextlib.suppress(OSError):  # it may be the system's
                    os.kill(self._launcher, signal.SIGTERM)
        _end_hydras_job()
        os._exit(EXIT_RESUMABLE)

    def _tick(self) -> None:
        """Count how long the rank has said nothing; end it at its limit, or when nobody could end it."""
        if self._ended_ticks is not None:
            self._ended_ticks += 1
            if self._ended_ticks >= UNKILLABLE_TICKS:
                self._follow(signal.SIGKILL)
            return
        cells, limit_ms = self._cells, self._cells[LIMIT_MS]
        busy = limit_ms and cells[ROUND] and cells[WAITS] <= 0
        self._beats = _moved(self._beats, cells[BEATS], counts=bool(busy))
        # While libraries are loaded and data is read, no thread may run for long: only a stop counts then.
        self._alive = _moved(self._alive, cells[ALIVE], counts=bool(cells[ROUND]) or self._stopped)
        ready_ms = cells[READY_MS]
        self._unready = _moved(self._unready, ready_ms, counts=ready_ms > 0)
        silent_ms = max(self._beats[1], self._alive[1]) * TICK_S * 1000
        if silent_ms >= limit_ms > 0:
            self._end(f"said nothing for {limit_ms / 1000:g} s {self._where()} ({self._why(limit_ms)})")
        elif self._unready[1] * TICK_S * 1000 >= ready_ms > 0:
            self._end(f"was not ready after {ready_ms / 1000:g} s {self._where()}")
        elif os.getppid() != self._launcher:
            self._end(f"lost its launcher {self._where()}")

    def _why(self, limit_ms: int) -> str:
        if self._stopped:
            return "stopped by a signal"
        no_thread = self._alive[1] * TICK_S * 1000 >= limit_ms
        return "none of its threads runs" if no_thread else "its main thread makes no progress"

    def _end(self, why: str) -> None:
        """Kill the rank; `_look` sees it die."""
        self._say(f"{why}: ended{'' if self._survivors_go_on else self._what_now()}")
        self._ended_ticks = 0
        os.kill(self._child, signal.SIGKILL)

    def _say(self, sentence: str) -> None:
        started = self._cells[TEXT_LENGTH] > 0
        who = f"silo {self._cells[SILO]} (rank {self._rank})" if started else f"rank {self._rank}"
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(2, f"silofl: {who} {sentence}\n".encode())

    def _where(self) -> str:
        number = self._cells[ROUND]
        return f"in round {number}" if number else "before its first round"

    def _what_now(self) -> str:
        committed = self._cells[COMMITTED]
        known = f"; rounds up to {committed} are certainly committed" if committed else ""
        return f"{known}: {read_text(self._cells) or 'start the same command again'}"


def _moved(seen: tuple[int, int], value: int, *, counts: bool) -> tuple[int, int]:
    """The counter's new value and for how many ticks that count it has not moved."""
    return (value, seen[1] + 1) if counts and value == seen[0] else (value, 0)


def _become_small() -> None:
    """Hold on to nothing of the rank's, and be known by a name of one's own.

    But to Hydra's connection: were it lost with the rank, Hydra would kill the job before a word is said.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave nothing to wait for
    kept = {0, 1, 2, _hydras_socket()}
    with contextlib.suppress(OSError):  # no /proc in this container
        for number in map(int, os.listdir("/proc/self/fd")):
            if number not in kept:
                with contextlib.suppress(OSError):  # the listing's own is closed already
                    os.close(number)
        Path("/proc/self/comm").write_text("silofl-watchdog", encoding="ascii")


def _hydras_socket() -> int | None:
    """The descriptor by which a rank talks to Hydra, the launcher of MPICH; None under other launchers."""
    number = os.environ.get("PMI_FD", "")
    with contextlib.suppress(OSError):
        if number.isdecimal() and stat.S_ISSOCK(os.fstat(int(number)).st_mode):
            return int(number)
    return None


def _end_hydras_job() -> None:
    """Have Hydra end the job with our exit code, as MPI_Abort does (`cmd=abort` of the PMI-1 wire protocol).

    By itself it adds up the exit codes of all ranks, and most of them it kills.
    """
    socket = _hydras_socket()
    if socket is not None:
        time.sleep(PRINT_GRACE_S)  # Hydra does not wait for what ranks have printed
        with contextlib.suppress(OSError):
            os.write(socket, f"cmd=abort exitcode={EXIT_RESUMABLE} message=abort\n".encode())


def _die_of(number: int) -> NoReturn:
    """End this process by a signal, as its rank ended; only the rank's memory is worth a core dump."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    signal.pause()
    os._exit(128 + number)
