"""Runs a launcher to its end: passes on what it is told, and lets neither outlive the other."""

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
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.exit_status import EXIT_STATUS, mpi_ready_file, read_exit_status

NOISE = b"NBC_Progress: an error"
ABORT = b"MPI_ABORT was invoked"
RELAY_S = 5.0
TICK_S = 0.5
LAUNCHER_ENDS_S = 10.0
"""A launcher that is still there so long after its aborted ranks, or after it was told to end, never ends."""
RANKS_HEAR_S = 5.0
"""After so long ranks are taken to hear signals, where the leader's word cannot be seen from its node."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_HEARD = {*PASSED_ON, signal.SIGTSTP, signal.SIGCHLD}
"""Taken from a queue, not caught: none is lost before the launcher runs, or interrupts anything."""
_PR_SET_PDEATHSIG = 1


class Ended(NamedTuple):
    """How a job ended."""

    code: int
    asked: bool
    """Whether somebody asked it to, by a signal to the launcher or to a rank."""


def supervise(command: Sequence[str]) -> Ended:
    """Run a launcher's command to its end, of which this process is to be the main thread.

    SIGINT, SIGTERM or SIGUSR1 asks the ranks to stop after their round, by the SIGUSR1 that every launcher
    passes on; SIGINT or SIGTERM once more ends them at once. The launcher ends with this process.
    """
    with tempfile.TemporaryDirectory(prefix="silofl-") as folder:
        note = Path(folder) / "outcome"
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            job = subprocess.Popen(
                command,
                env={**sessions_in(folder, os.environ), EXIT_STATUS: str(note)},
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,  # or a terminal's Ctrl-C would have mpirun kill the ranks
                preexec_fn=partial(_begin, mask, os.getpid()),  # noqa: PLW1509, before any thread
            )
            assert job.stderr is not None
            waited = _Waited(job, note)
            relay = threading.Thread(target=_relay, args=(job.stderr, waited.aborts), daemon=True)
            relay.start()
            waited.to_the_end()
            relay.join(RELAY_S)
            while signal.sigtimedwait(PASSED_ON, 0):
                waited.asked = True
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        told = read_exit_status(note)
        if told is not None:
            return Ended(told[0], waited.asked or told[1])
        if job.returncode > 0 or (job.returncode == 0 and not waited.asked):
            return Ended(job.returncode, waited.asked)
        if job.returncode == 0:  # and nobody left a note: ranks died of it before they could hear
            return Ended(EXIT_RESUMABLE, waited.asked)
        if waited.ended:
            return Ended(128 - job.returncode, waited.asked)
        name = signal.Signals(-job.returncode).name
        print(f"silofl: the launcher was ended by {name}, and the job with it", file=sys.stderr, flush=True)
        return Ended(EXIT_RESUMABLE, waited.asked)


def sessions_in(folder: str, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ`, with a folder for Open MPI's launcher that is its own, unless the user chose one.

    One that is killed leaves files under its process number in the folder that all share, and the next that
    gets that number does not start: "the PMIx server's listener thread failed to start".
    """
    return {"PRTE_MCA_prte_local_tmpdir_base": folder, **environ}


def _begin(mask: set[int], parent: int) -> None:
    """In the launcher's process before it is the launcher: hear signals, and end when the parent does."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXIT_RESUMABLE)


class _Waited:
    """A launcher that is waited for, with what it is told meanwhile."""

    def __init__(self, job: subprocess.Popen[bytes], note: Path) -> None:
        self.asked = False
        self.aborts = threading.Event()
        """Set where ranks called MPI_Abort."""
        self._job, self._up = job, mpi_ready_file(note)
        self._began, self._passed_on = time.monotonic(), False
        self._alone_since = math.inf
        self._ended_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether it was made to end."""
        return self._ended_at is not None

    def to_the_end(self) -> None:
        """Return when it has ended, which it does."""
        while self._job.poll() is None:
            info = signal.sigtimedwait(_HEARD, TICK_S)
            if info is not None and info.si_signo != signal.SIGCHLD:
                self._take(info.si_signo)
            self._look()

    def _take(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._job.send_signal(number)
            os.kill(os.getpid(), signal.SIGSTOP)
            self._job.send_signal(signal.SIGCONT)
        elif number == signal.SIGUSR2:
            self._job.send_signal(number)
        elif not self.asked:
            self.asked = True  # `_look` passes it on
            if number != signal.SIGUSR1:
                print(
                    "silofl: stopping after this round; once more stops it now", file=sys.stderr, flush=True
                )
        elif number != signal.SIGUSR1:
            self._end()

    def _look(self) -> None:
        """See that it ends with its ranks: PRRTE's has been seen to wait for itself when several abort.

        Ranks that do not hear yet would die of what is passed on.
        """
        now = time.monotonic()
        heard = self._up.exists() or now - self._began >= RANKS_HEAR_S
        if self.asked and heard and not self._passed_on:
            self._passed_on = True
            self._job.send_signal(signal.SIGUSR1)
        alone = self.aborts.is_set() and not _children(self._job.pid)
        self._alone_since = min(self._alone_since, now) if alone else math.inf
        if now - self._alone_since >= LAUNCHER_ENDS_S:
            self._end()
        if self._ended_at is not None and now - self._ended_at >= LAUNCHER_ENDS_S:
            self._job.kill()  # what it had started ends with it: see `silofl.launcher.watchdog`

    def _end(self) -> None:
        if not self.ended:
            self._ended_at = time.monotonic()
            self._job.terminate()


def _children(process: int) -> list[str]:
    """Numbers of a process's children, as far as the system tells."""
    found: list[str] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += path.read_text().split()
    return found


def _relay(lines: IO[bytes], aborts: threading.Event) -> None:
    """Pass on what the job says, but for Open MPI's own note of each collective that a death ends."""
    dropped = False
    for line in lines:
        if line.startswith(ABORT):
            aborts.set()
        blank_after = dropped and line == b"\n"
        dropped = line.startswith(NOISE)
        if not (dropped or blank_after):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()
