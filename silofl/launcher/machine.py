"""What this machine gives a process: cores allowed, cores shared with sibling ranks, launcher processes.

Linux answers from /proc, /sys and the affinity mask; elsewhere the plain core count is used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from silofl.launcher import watchdog

_SONAMES = {
    "openmpi": ("libmpi.so.40",),
    "hydra": ("libmpi.so.12", "libmpich.so.12"),
}
_LIBRARY_FOLDERS = ("lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu")


def affinity(pid: int = 0) -> set[int]:
    """Return the processors that a process (0: this one) may run on."""
    try:
        return os.sched_getaffinity(pid)
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def allowed_cores() -> int:
    """Return how many processors this process may use: its affinity, capped by the control group's quota."""
    return max(1, min(len(affinity()), quota_cores()))


def shared_cores() -> int:
    """Return how many processors this process and its sibling ranks may use together.

    A launcher that binds ranks narrows each one's affinity; the launcher's own is what they share.
    """
    return max(1, min(len(affinity() | affinity(launcher_pid())), quota_cores()))


def launcher_pid() -> int:
    """Return the process that started this one: the parent, or a watchdog's parent."""
    parent = os.getppid()
    return (_parent_of(parent) or parent) if watchdog.guarded() else parent


def quota_cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the processors that the control group's quota pays for, rounded up; a large number if none."""
    for folder in _groups(root, own):
        limit = _quota(folder)
        if limit is not None:
            return max(1, math.ceil(limit))
    return 1 << 20


def ancestors(limit: int = 12) -> list[str]:
    """Return the executables of this process's ancestors, nearest first, as far as they can be read."""
    found: list[str] = []
    pid: int | None = launcher_pid()
    while pid is not None and pid > 1 and len(found) < limit:
        try:
            found.append(os.readlink(f"/proc/{pid}/exe"))
        except OSError:
            break
        pid = _parent_of(pid)
    return found


def _parent_of(pid: int) -> int | None:
    """The parent of a process; None where it cannot be read."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def library_beside(executable: str | None, launcher: str) -> str | None:
    """Return the libmpi in the prefix of a launcher's executable (`<prefix>/bin/prterun`), if it is there."""
    if executable is None or launcher not in _SONAMES:
        return None
    prefix = Path(executable).parent.parent
    paths = (prefix / folder / name for folder in _LIBRARY_FOLDERS for name in _SONAMES[launcher])
    return next((str(path) for path in paths if path.is_file()), None)


def _groups(root: Path, own: Path) -> list[Path]:
    """Folders of this process's control groups: version 2, then the cpu controller of version 1."""
    folders = []
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folders += [root / path.lstrip("/"), root]
        elif "cpu" in controllers.split(","):
            folders += [root / "cpu" / path.lstrip("/"), root / "cpu"]
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8").strip()
        return float(quota) / float(period) if quota not in {"max", "-1"} else None
    except (OSError, ValueError):
        return None
