"""The end of Open MPI's launcher on this host, where a rank has ended the job and the launcher does not end.

MPI_Abort has the launcher end all ranks on all hosts, and then it waits for each host's daemon: where a host
is cut off the answer never comes, and a daemon that is cut off never gets the order.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from silofl.launcher.process_tree import parent_of

END_TIMEOUT_S = 8.0
"""So long the launcher has to end after a rank that ended the job; usually it takes a tenth of a second."""
TERM_TIMEOUT_S = 3.0
"""So long it has to end after SIGTERM."""
PROGRAMS = ("prterun", "prted")
"""What serves one job alone: the first on the host of mpirun, the other on all others."""


def end_later(launcher: int, started: int, environ: Mapping[str, str] = os.environ) -> None:
    """End the launcher, which `started` a process, where it runs after `END_TIMEOUT_S`; return at once.

    A process of its own waits for that, in a session of its own, for the launcher kills its ranks first. It
    ends with the launcher. Does nothing where that is not Open MPI's, or serves other jobs, too (`prte`).
    """
    if not _serves_one_job(launcher, started, environ):
        return
    with suppress(OSError):
        handle = os.pidfd_open(launcher)  # a process number may be given away again
        if parent_of(started) != launcher:
            return
        if os.fork() == 0:
            _end(handle)


def _end(handle: int) -> None:
    """The process that waits; it never returns."""
    try:
        os.setsid()
        for number in (0, 1, 2):  # the launcher reads what its ranks print to the end
            os.close(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for wait_s, number in ((END_TIMEOUT_S, signal.SIGTERM), (TERM_TIMEOUT_S, signal.SIGKILL)):
            if select.select([handle], [], [], wait_s)[0]:
                break  # it has ended
            signal.pidfd_send_signal(handle, number)
    finally:
        os._exit(0)


def _serves_one_job(launcher: int, started: int, environ: Mapping[str, str]) -> bool:
    """Whether the launcher was started for this job, which it named after itself."""
    if parent_of(started) != launcher or not environ.get("PMIX_NAMESPACE", "").startswith("prterun-"):
        return False
    with suppress(OSError):
        return Path(f"/proc/{launcher}/comm").read_text(encoding="utf-8").strip() in PROGRAMS
    return False
