"""Supervision of a job's launcher: forwards signals, and ends launcher and ranks together."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.exit_status import (
    EXIT_STATUS,
    mpi_ready_file,
    read_exit_status,
    spoken_exit_status,
)
from silofl.launcher.process_tree import children_of

NOISE = b"NBC_Progress: an error"
ABORT = b"MPI_ABORT was invoked"
RELAY_TIMEOUT_S = 5.0
TICK_S = 0.5
LAUNCHER_EXIT_TIMEOUT_S = 10.0
"""A launcher that still runs so long after its aborted ranks, or after SIGTERM, never ends by itself."""
RANKS_READY_S = 5.0
"""After so long ranks are taken to handle signals, where `mpi_ready_file` cannot be seen from their node."""
FORWARDED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_QUEUED_SIGNALS = {*FORWARDED_SIGNALS, signal.SIGTSTP, signal.SIGCHLD}
"""Taken from a queue, not caught: none is lost before the launcher runs, or interrupts anything."""
_PR_SET_PDEATHSIG = 1


class JobEnd(NamedTuple):
    """How a job ended."""

    code: int
    """Exit code."""
    stop_requested: bool
    """Whether a signal to the launcher or to a rank requested it."""


def supervise(command: Sequence[str], *, ranks_tell: bool = False) -> JobEnd:
    """Run a launcher's command to its end; call it in the main thread.

    `ranks_tell`: without the ranks' own word that the run is finished the job can be resumed (75), whatever
    the launcher says: Open MPI's ends with 0 where a host is lost.

    The first SIGINT, SIGTERM or SIGUSR1 asks the ranks to stop after their round, by SIGUSR1, which every
    launcher forwards; a second SIGINT or SIGTERM ends them at once. The launcher ends with this process.
    """
    with tempfile.TemporaryDirectory(prefix="silofl-") as folder:
        exit_status = Path(folder) / "exit-status"
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _QUEUED_SIGNALS)
        try:
            launcher = _Launcher(_start(command, folder, exit_status, mask - _QUEUED_SIGNALS), exit_status)
            launcher.wait()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return launcher.job_end(read_exit_status(exit_status), ranks_tell=ranks_tell)


def private_session_dir(folder: str, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with `folder` as the session directory of Open MPI's launcher, unless the user chose one.

    One that is killed leaves files under its process number in the directory that all share, and the next
    that gets that number does not start: "the PMIx server's listener thread failed to start".
    """
    return {"PRTE_MCA_prte_local_tmpdir_base": folder, **environ}


def _start(command: Sequence[str], folder: str, exit_status: Path, mask: set[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env={**private_session_dir(folder, os.environ), EXIT_STATUS: str(exit_status)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,  # or a terminal's Ctrl-C would have mpirun kill the ranks
        preexec_fn=partial(_before_exec, mask, os.getpid()),  # noqa: PLW1509, before any thread
    )


def _before_exec(mask: set[int], parent: int) -> None:
    """In the launcher's process before its exec: set which signals it blocks; have it end with its parent."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXIT_RESUMABLE)


class _Launcher:
    """A running launcher, with the signals that it gets meanwhile."""

    def __init__(self, process: subprocess.Popen[bytes], exit_status: Path) -> None:
        self._process, self._mpi_ready = process, mpi_ready_file(exit_status)
        self._started = time.monotonic()
        self._stop_requested = self._stop_forwarded = False
        self._childless_since = math.inf
        self._terminated_at: float | None = None
        self._heard = _Heard(exit_status)
        assert process.stderr is not None
        self._relay = threading.Thread(target=_relay, args=(process.stderr, self._heard), daemon=True)
        self._relay.start()

    def wait(self) -> None:
        """Return when it has ended, and terminate it where it does not by itself."""
        while self._process.poll() is None:
            info = signal.sigtimedwait(_QUEUED_SIGNALS, TICK_S)
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._handle(info.si_signo)
            self._forward_stop()
            self._end_if_hung()
        self._relay.join(RELAY_TIMEOUT_S)
        while signal.sigtimedwait(FORWARDED_SIGNALS, 0):
            self._stop_requested = True

    def job_end(self, exit_status: tuple[int, bool] | None, *, ranks_tell: bool) -> JobEnd:
        """How the job ended: by the ranks' own exit status where they told one, else by the launcher's."""
        code, exit_status = self._process.returncode, exit_status or self._heard.exit_status
        if exit_status is not None:
            return JobEnd(exit_status[0], self._stop_requested or exit_status[1])
        if code == 0 and self._stop_requested:  # ranks died of the signal before they could handle it
            code = EXIT_RESUMABLE
        elif code < 0 and self._terminated_at is not None:
            code = 128 - code
        elif code < 0:
            log(f"the launcher was killed by {signal.Signals(-code).name}, and the job with it")
            code = EXIT_RESUMABLE
        elif code == 0 and ranks_tell:
            log("the launcher ended before the ranks had finished the run: a host or its daemon was lost")
            code = EXIT_RESUMABLE
        return JobEnd(code, self._stop_requested)

    def _handle(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._process.send_signal(number)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._process.send_signal(signal.SIGCONT)
        elif number == signal.SIGUSR2:
            self._process.send_signal(number)
        elif not self._stop_requested:
            self._stop_requested = True
            if number != signal.SIGUSR1:
                log("stopping after this round; a second signal stops now")
        elif number != signal.SIGUSR1:
            self._terminate()

    def _forward_stop(self) -> None:
        """Ask the ranks to stop, once they handle signals: before, they would die of it."""
        ready = self._mpi_ready.exists() or time.monotonic() - self._started >= RANKS_READY_S
        if self._stop_requested and ready and not self._stop_forwarded:
            self._stop_forwarded = True
            self._process.send_signal(signal.SIGUSR1)

    def _end_if_hung(self) -> None:
        """Terminate a launcher without ranks: PRRTE's may hang when several of them abort."""
        now = time.monotonic()
        childless = self._heard.aborted.is_set() and not children_of(self._process.pid)
        self._childless_since = min(self._childless_since, now) if childless else math.inf
        if now - self._childless_since >= LAUNCHER_EXIT_TIMEOUT_S:
            self._terminate()
        if self._terminated_at is not None and now - self._terminated_at >= LAUNCHER_EXIT_TIMEOUT_S:
            self._process.kill()  # its ranks end with it: see `silofl.launcher.watchdog`

    def _terminate(self) -> None:
        if self._terminated_at is None:
            self._terminated_at = time.monotonic()
            self._process.terminate()


class _Heard:
    """What the job's standard error told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        """Where ranks write their exit status, if they can."""
        self.aborted = threading.Event()
        """Set where ranks called MPI_Abort."""
        self.exit_status: tuple[int, bool] | None = None
        """As a rank of another host told it."""


def _relay(lines: IO[bytes], heard: _Heard) -> None:
    """Copy the job's standard error, without Open MPI's message on each collective that a failure ends."""
    dropped = False
    for line in lines:
        if line.startswith(ABORT):
            heard.aborted.set()
        spoken = spoken_exit_status(line, heard.path)
        heard.exit_status = spoken or heard.exit_status
        blank_after = dropped and line == b"\n"
        dropped = line.startswith(NOISE)
        if not (dropped or blank_after or spoken):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
