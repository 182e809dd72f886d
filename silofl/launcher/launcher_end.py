"""The end of Open MPI's launcher on this host, where it does not end by itself after a rank ended the job.

MPI_Abort has the launcher end all ranks on all hosts, and it waits for the answer of each host's daemon: where
a host is cut off the answer never comes, and a daemon that is cut off never gets the order.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ORDER_TIMEOUT_S = 8.0
"""So long the launcher has to end a rank whose end is the job's; usually it takes milliseconds."""
TERM_TIMEOUT_S = 3.0
"""So long it has to end after SIGTERM."""
PROGRAMS = ("prterun", "prted")
"""What serves this job alone, on the first host and on others."""
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def await_end(launcher: int, environ: Mapping[str, str] = os.environ) -> None:
    """Return when the launcher orders this process to end, or has ended; end it where it does neither in time.

    For the watchdog of a rank that has ended the job and itself. Does nothing where the launcher is not Open
    MPI's, or serves other jobs too (`prte`).
    """
    if not _is_for_this_job(launcher, environ):
        return
    if _gone_within(launcher, ORDER_TIMEOUT_S):
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(OSError):
            os.kill(launcher, number)
        if _gone_within(launcher, TERM_TIMEOUT_S):
            return


def _is_for_this_job(launcher: int, environ: Mapping[str, str]) -> bool:
    """Whether the process is a launcher of one job, which gave it the name of that job's namespace."""
    if os.getppid() != launcher or not environ.get("PMIX_NAMESPACE", "").startswith("prterun-"):
        return False
    with suppress(OSError):
        return Path(f"/proc/{launcher}/comm").read_text(encoding="utf-8").strip() in PROGRAMS
    return False


def _gone_within(launcher: int, seconds: float) -> bool:
    """Whether the launcher ends within so long, or tells this process to: signals are blocked and taken here."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if os.getppid() != launcher or signal.sigtimedwait(_STOPS, 0.1) is not None:
            return True
    return False
