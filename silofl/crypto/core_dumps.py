"""No core dumps: an image of the process on disk would hold its keys, and the silo's data."""

from __future__ import annotations

import resource


def forbid_core_dumps() -> None:
    """Let the kernel write none for this process and those that it starts.

    By the limit alone. PR_SET_DUMPABLE would also keep out a program that takes dumps through a pipe and
    ignores the limit, but takes /proc/self from the ranks of a node, whose shared memory is opened there.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
