"""Starting a whole job again where it ended although nobody asked it to, and can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence

from silofl.console import log
from silofl.errors import EXIT_RESUMABLE
from silofl.launcher.job_supervisor import PASSED_ON, supervise

PAUSES_S = (0.0, 10.0, 60.0)
"""Before each further start; the last one before all that follow."""


def supervise_restarts(first: Sequence[str], again: Sequence[str], restarts: int) -> int:
    """Run `first` to its end; while that can be gone on from, run `again`, `restarts` times at most.

    Returns the last job's exit code. A job that was asked to stop is not started again.
    """
    ended = supervise(first)
    for count in range(1, restarts + 1):
        if ended.code != EXIT_RESUMABLE or ended.asked:
            break
        log(f"starting the job again from the last committed round ({count} of {restarts} times)")
        if _asked_within(PAUSES_S[min(count, len(PAUSES_S)) - 1]):
            break
        ended = supervise(again)
    return ended.code


def _asked_within(seconds: float) -> bool:
    """Wait; whether somebody asked for the end meanwhile."""
    asked = threading.Event()
    before = {number: signal.signal(number, lambda *told: asked.set()) for number in PASSED_ON}
    try:
        return asked.wait(seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
