"""Polling with backoff, for ranks that share their cores.

MPI libraries spin. On an oversubscribed node that slows the very rank that is waited for, a thousandfold
where other programs run too, so here a rank first yields, then sleeps for a small share of the time waited.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any

YIELD_S = 2e-4
SLEEP_SHARE = 0.05
MAX_SLEEP_S = 1e-3


def wait_with_backoff(requests: Iterable[Any], timeout_s: float = float("inf")) -> bool:
    """Complete MPI requests; False if `timeout_s` seconds passed first.

    A sleep is at most 5% of the time waited so far and 1 ms, so that is what it adds to a wait.
    """
    begun = time.perf_counter()
    for request in requests:
        while not request.Test():
            waited = time.perf_counter() - begun
            if waited > timeout_s:
                return False
            if waited < YIELD_S:
                os.sched_yield()
            else:
                time.sleep(min(waited * SLEEP_SHARE, MAX_SLEEP_S))
    return True
