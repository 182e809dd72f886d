"""Restarts of a whole job that failed without being asked to stop, and can be resumed."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Protocol

from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.job_supervisor import FORWARDED_SIGNALS, supervise

PAUSES_S = (0.0, 10.0, 60.0)
"""Before each restart; the last one also before all further restarts."""


class Restarted(Protocol):
    """What is run after a job that failed: it may depend on what was lost."""

    def command(self) -> Sequence[str]:
        """The command of the next restart; StoppedError where there is nothing to run it on."""
        ...

    def exit_code(self, code: int) -> int:
        """What the exit code of such a job means."""
        ...


def supervise_restarts(
    first: Sequence[str], resumed: Sequence[str] | Restarted, restarts: int, *, ranks_tell: bool = False
) -> int:
    """Run the command `first` to its end; while it can be resumed, run `resumed`, at most `restarts` times.

    Returns the last job's exit code. A job that a signal has asked to stop is not restarted. `ranks_tell`:
    see `supervise`.
    """
    again = _Same(resumed) if isinstance(resumed, Sequence) else resumed
    code, stop_requested = supervise(first, ranks_tell=ranks_tell)
    for count in range(1, restarts + 1):
        if code != EXIT_RESUMABLE or stop_requested:
            break
        log(f"restarting the job from the last committed round (restart {count} of {restarts})")
        command = _next_command(again, PAUSES_S[min(count, len(PAUSES_S)) - 1])
        if command is None:
            break
        code, stop_requested = supervise(command, ranks_tell=ranks_tell)
        code = again.exit_code(code)
    return code


class _Same:
    """`Restarted` by the same command each time."""

    def __init__(self, line: Sequence[str]) -> None:
        self._line = line

    def command(self) -> Sequence[str]:
        """See `Restarted`."""
        return self._line

    def exit_code(self, code: int) -> int:
        """See `Restarted`."""
        return code


def _next_command(again: Restarted, pause_s: float) -> Sequence[str] | None:
    """What to run after a pause; None where a signal requests a stop before it is known."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    try:
        if _stop_requested_within(pause_s):
            return None
        command = again.command()
        return None if _stop_requested_within(0.0) else command
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _stop_requested_within(seconds: float) -> bool:
    """Wait; return True at once if a signal requests a stop meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    try:
        return signal.sigtimedwait(FORWARDED_SIGNALS, seconds) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
