"""Restarts of a whole job that failed without being asked to stop, and can be resumed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.job_supervisor import FORWARDED_SIGNALS, supervise

PAUSES_S = (0.0, 10.0, 60.0)
"""Before each restart; the last one also before all further restarts."""


def supervise_restarts(first: Sequence[str], resumed: Sequence[str], restarts: int) -> int:
    """Run the command `first` to its end; while it can be resumed, run `resumed`, at most `restarts` times.

    Returns the last job's exit code. A job that a signal has asked to stop is not restarted.
    """
    job_end = supervise(first)
    for count in range(1, restarts + 1):
        if job_end.code != EXIT_RESUMABLE or job_end.stop_requested:
            break
        log(f"restarting the job from the last committed round (restart {count} of {restarts})")
        if _stop_requested_within(PAUSES_S[min(count, len(PAUSES_S)) - 1]):
            break
        job_end = supervise(resumed)
    return job_end.code


def _stop_requested_within(seconds: float) -> bool:
    """Wait; return True at once if a signal requests a stop meanwhile."""
    requested = threading.Event()
    before = {number: signal.signal(number, lambda *_: requested.set()) for number in FORWARDED_SIGNALS}
    try:
        # Python handles a signal only when the wait is over if it came as the wait began.
        return requested.wait(seconds) or requested.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
