"""Restarts of a whole job that failed without being asked to stop, and can be resumed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.job_supervisor import FORWARDED_SIGNALS, supervise

PAUSES_S = (0.0, 10.0, 60.0)
"""Before each restart; the last one also before all further restarts."""


def supervise_restarts(
    first: Sequence[str],
    resumed: Sequence[str] | Callable[[], Sequence[str]],
    restarts: int,
    *,
    ranks_tell: bool = False,
) -> int:
    """Run the command `first` to its end; while it can be resumed, run `resumed`, at most `restarts` times.

    Returns the last job's exit code. A job that a signal has asked to stop is not restarted. `resumed` may be
    called for its command before each restart, for which hosts answer shows then. `ranks_tell`: `supervise`.
    """
    job_end = supervise(first, ranks_tell=ranks_tell)
    for count in range(1, restarts + 1):
        if job_end.code != EXIT_RESUMABLE or job_end.stop_requested:
            break
        log(f"restarting the job from the last committed round (restart {count} of {restarts})")
        if _stop_requested_within(PAUSES_S[min(count, len(PAUSES_S)) - 1]):
            break
        job_end = supervise(resumed() if callable(resumed) else resumed, ranks_tell=ranks_tell)
    return job_end.code


def _stop_requested_within(seconds: float) -> bool:
    """Wait; return True at once if a signal requests a stop meanwhile."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED_SIGNALS)
    try:
        return signal.sigtimedwait(FORWARDED_SIGNALS, seconds) is not None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
