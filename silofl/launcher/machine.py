"""Processor cores that this process may use, alone and with its sibling ranks.

Linux answers by affinity masks and control groups; elsewhere the plain core count is used.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from silofl.launcher.process_tree import launcher_pid

UNLIMITED = 1 << 20


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


def quota_cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the control group's quota of processors, rounded up; `UNLIMITED` without one."""
    for folder in _groups(root, own):
        limit = _quota(folder)
        if limit is not None:
            return max(1, math.ceil(limit))
    return UNLIMITED


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
