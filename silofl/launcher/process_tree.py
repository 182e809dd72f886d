"""Parents, children and ancestors of processes, as far as /proc tells."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

MAX_ANCESTORS = 12
_PR_SET_PDEATHSIG = 1


def parent_of(pid: int) -> int | None:
    """The parent of a process; None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def children_of(pid: int) -> list[int]:
    """The children of a process."""
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, path.read_text().split())
    return children


def descendants(pid: int) -> list[int]:
    """The children of a process, and theirs."""
    return [one for child in children_of(pid) for one in (child, *descendants(child))]


def end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent, a process number, ends; at once where it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call took effect
        os.kill(os.getpid(), signal.SIGKILL)


_launchers: list[int] = []


def started_by(launcher: int) -> None:
    """Say what started this rank where that is not its parent, but a watchdog or a zygote is."""
    _launchers[:] = [launcher]


def launcher_pid() -> int:
    """The process that started this rank: its parent where `started_by` was not told of another."""
    return _launchers[0] if _launchers else os.getppid()


def ancestor_executables() -> list[str]:
    """Executables of this rank's ancestors, from the launcher on, nearest first, as far as readable."""
    executables: list[str] = []
    pid: int | None = launcher_pid()
    while pid is not None and pid > 1 and len(executables) < MAX_ANCESTORS:
        try:
            executables.append(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            break
        pid = parent_of(pid)
    return executables
