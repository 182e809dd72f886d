"""Honest timing: references interleaved with what is measured, medians, spreads, ratios pair by pair.

On a shared machine an absolute time means little. Every round of a measurement runs each callable once, so
a figure and its reference meet the same neighbours; the ratio is the median over rounds of that in a round.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rich.table import Table

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One figure beside its reference; times in seconds for one call."""

    name: str
    seconds: float
    """Median."""
    fastest: float
    slowest: float
    reference: str
    """Name of the row that ratios are against."""
    ratio: float
    """Median over rounds of this time over the reference's."""
    ratio_low: float
    """Lower quartile of the same."""
    ratio_high: float
    """Upper quartile of the same."""
    gigabytes: float
    """10^9 bytes that one call works on, 0 where that has no meaning."""
    goal: str
    """What the ratio is meant to be, such as "<= 1.4", or empty."""


def interleaved(
    calls: Mapping[str, Call], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each callable in each round; one untimed round comes first.

    Raises:
        ValueError: no round.
    """
    if rounds < 1:
        raise ValueError(f"a measurement has at least one round, not {rounds}")
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = clock()
            call()
            times[name].append(clock() - began)
    return times


def compare(
    calls: Mapping[str, Call],
    *,
    reference: str,
    rounds: int,
    gigabytes: float = 0.0,
    goals: Mapping[str, str] | None = None,
) -> list[Row]:
    """Measure `calls` side by side, each against `reference` (one of them)."""
    times = interleaved(calls, rounds=rounds)
    goals = goals or {}
    return [
        row(name, t, reference, times[reference], gigabytes, goals.get(name, "")) for name, t in times.items()
    ]


def row(
    name: str,
    times: Sequence[float],
    reference: str,
    reference_times: Sequence[float],
    gigabytes: float,
    goal: str,
) -> Row:
    """One row from the times of a figure and of its reference, round by round."""
    ratios = sorted(a / b for a, b in zip(times, reference_times, strict=True))
    quarter = len(ratios) // 4
    return Row(
        name, statistics.median(times), min(times), max(times), reference,
        statistics.median(ratios), ratios[quarter], ratios[-1 - quarter], gigabytes, goal,
    )  # fmt: skip


def met(row: Row) -> bool | None:
    """Whether the ratio is what it is meant to be; None without a goal."""
    if not row.goal:
        return None
    relation, bound = row.goal.split()
    return row.ratio <= float(bound) if relation == "<=" else row.ratio >= float(bound)


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows for a person to read."""
    out = Table(title=title, title_justify="left")
    out.add_column("measured")
    for heading in ("ms", "fastest", "slowest", "GB/s", "ratio", "quartiles", "goal"):
        out.add_column(heading, justify="right")
    out.add_column("against")
    for r in rows:
        rate = f"{r.gigabytes / r.seconds:.1f}" if r.gigabytes else ""
        colour = {None: "", True: "[green]", False: "[yellow]"}[met(r)]
        out.add_row(
            r.name, f"{1e3 * r.seconds:.3f}", f"{1e3 * r.fastest:.3f}", f"{1e3 * r.slowest:.3f}", rate,
            f"{colour}{r.ratio:.2f}", f"{r.ratio_low:.2f}-{r.ratio_high:.2f}", r.goal, r.reference,
        )  # fmt: skip
    return out


def machine() -> dict[str, str | int]:
    """What the figures were measured on, without naming the machine."""
    versions = {name: metadata.version(name) for name in ("numba", "numpy", "cryptography")}
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": platform.system(),
        "python": platform.python_version(),
        **versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def to_json(title: str, rows: Sequence[Row]) -> str:
    """The rows and the machine for a program to read."""
    return json.dumps({"benchmark": title, "machine": machine(), "rows": [asdict(r) for r in rows]}, indent=2)
