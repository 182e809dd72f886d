"""Starting a whole job again where it ended although nobody asked it to, and can go on."""

from __future__ import annotations

import time
from collections.abc import Sequence

from silofl.comm.ending import say
from silofl.comm.supervisor import supervise
from silofl.errors import EXIT_RESUMABLE

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
        say(f"starting the job again from the last committed round ({count} of {restarts} times)")
        time.sleep(PAUSES_S[min(count, len(PAUSES_S)) - 1])
        ended = supervise(again)
    return ended.code
