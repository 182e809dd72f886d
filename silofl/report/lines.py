"""A run in words: pure functions from metrics to lines."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from silofl.report.round_metrics import RoundMetrics
from silofl.types import MetricValue

Record = dict[str, Any]
CELLS_SHOWN = 16
"""Numbers of a tensor that are written out in a line."""


def opening(plan: Record) -> list[str]:
    """What is about to run, in a few lines."""
    start = f" from round {plan['first_round']}" if plan["first_round"] > 1 else ""
    return [
        f"silofl {plan['version']}: {plan['name']}, {plan['silos']} silos, {plan['parameters']} parameters, "
        f"{plan['strategy']}, {plan['rounds']} rounds{start}",
        f"  sum: {plan['protocol']}; device of rank 0: {plan['device']}; run directory: {plan['path']}",
        *([f"  silos: {plan['participation']}"] if plan["participation"] else []),
        *([f"  clients: {plan['clients']}"] if plan["clients"] else []),
        *([f"  {plan['pruning']}"] if plan["pruning"] else []),
        *([f"  robust rule: {plan['robust']}"] if plan["robust"] else []),
        *([f"  detection: {plan['detection']}"] if plan["detection"] else []),
        *([f"  {plan['attack']}"] if plan["attack"] else []),
        *([f"  keys: {plan['keys']}"] if plan["keys"] else []),
        *([f"  steps: {plan['steps']}"] if plan["steps"] else []),
        *([f"  personal: {plan['personal']}"] if plan["personal"] else []),
        f"  privacy: {plan['privacy']}",
        *([f"  outside: {plan['outside']}"] if plan["outside"] else []),
    ]


def round_line(metrics: RoundMetrics, rounds: int, eta_seconds: float) -> str:
    """One round on one line."""
    width = len(str(rounds))
    parts = [f"round {metrics.round:>{width}}/{rounds}"]
    parts += [f"{name} {value_text(value)}" for name, value in metrics.shown]
    parts += [text for text in (spread(metrics.per_silo),) if text]
    parts += [f"left out {' '.join(map(str, metrics.left_out))}"] if metrics.left_out else []
    parts.append(f"{metrics.seconds:.2f} s ({phases(metrics.seconds_by_phase)})")
    parts.append(f"eta {duration(eta_seconds)}")
    return "  ".join(parts)


def value_text(value: MetricValue) -> str:
    """`0.9123`, `1.2e+09`, `no number`, and rows of a small tensor; of a larger one its shape."""
    if value is None:
        return "no number"
    if not isinstance(value, list):
        return f"{value:.4f}" if 1e-3 <= abs(value) < 1e6 or value == 0 else f"{value:.4g}"
    shape, inner = [], value
    while isinstance(inner, list) and inner:
        shape.append(len(inner))
        inner = inner[0]
    if math.prod(shape) > CELLS_SHOWN:
        return f"({' x '.join(map(str, shape))})"
    return _cells(value)


def _cells(value: MetricValue) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_cells, value))}]"
    return "no number" if value is None else f"{value:.4g}"


def spread(per_silo: Sequence[Mapping[str, float | None]], name: str = "accuracy") -> str:
    """Lowest and highest of a metric over silos; empty where silos do not share it."""
    values = [value for silo in per_silo if (value := silo.get(name)) is not None]
    return f"silos {min(values):.3f} to {max(values):.3f}" if values else ""


def phases(seconds: Mapping[str, float]) -> str:
    """`train 0.15, wait 0.02, other 0.03`, with `rejoin 2.50` where silos waited for others to rejoin."""
    named = {"train": 0.0, "wait": 0.0} | {k: seconds[k] for k in ("train", "wait", "rejoin") if k in seconds}
    named["other"] = sum(seconds.values()) - sum(named.values())
    return ", ".join(f"{name} {value:.2f}" for name, value in named.items())


def closing(summary: Record, path: str) -> list[str]:
    """What happened and where to look."""
    found = {name: value for name, value in summary["metrics"].items() if name != "loss"}
    score = ", ".join(f"{name} {value_text(value)}" for name, value in found.items())
    score = f"{score} on held-out data" if score else "trained"
    seconds = summary["seconds_by_phase"]
    total = max(sum(seconds.values()), summary["seconds"]) or 1.0
    train, waited, back = (seconds.get(phase, 0.0) for phase in ("train", "wait", "rejoin"))
    outside = total - train - waited - back
    spent = ""
    if summary["epsilon"] is not None:
        spent = f"epsilon {summary['epsilon']:.4g} at delta {summary['delta']:g}, "
    silo, of = ("", "") if summary["models_sha256"] else (" --silo 0", ", 0")  # there is no shared one
    return [
        f"done: {spent}{score} after {summary['rounds']} rounds "
        f"in {duration(summary['seconds'])}; "
        f"{train / total:.0%} training, {waited / total:.0%} waiting for the slowest silo, "
        f"{f'{back / total:.0%} waiting for silos to rejoin, ' if back else ''}"
        f"{outside / total:.0%} all else",
        *([f"  keys     {summary['keys']}"] if summary["keys"] else []),
        f"  privacy  {summary['privacy']}",
        *([f"  outside  {summary['outside']}"] if summary["outside"] else []),
        *_watched(summary),
        *_models(summary, path),
        *([f"  personal {path}/silo-*/personal.safetensors"] if summary["personal"] else []),
        f"  use      silofl predict {shlex.quote(path)} DATA{silo} -o out.csv; in Python "
        f"silofl.load({path!r}{of})",
        f"  report   silofl report {shlex.quote(path)} -o report.html",
        f"  summary  {path}/summary.json",
        f"  rounds   {path}/metrics.jsonl",
    ]


def _watched(summary: Record) -> list[str]:
    """Of which round the model is, where that is not simply the last one."""
    best = summary.get("best")
    if best is None or best["round"] is None:
        return []
    most = "highest" if best["mode"] == "max" else "lowest"
    told = f"{most} {best['metric']} {best['value']:.4g}"
    return [f"  best     {told} after round {best['round']}, whose model it is"]


def _models(summary: Record, path: str) -> list[str]:
    """The published models, each with its digest: one, or as many as a strategy has."""
    digests: Mapping[str, str] = summary["models_sha256"]
    names = [f"{path}/{name}.safetensors" for name in digests]
    width = max(map(len, names), default=0)
    return [
        f"  model    {name:{width}}  sha256 {digest}"
        for name, digest in zip(names, digests.values(), strict=True)
    ]


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Eta:
    """Seconds that are left, from the mean of the rounds so far in this process."""

    def __init__(self, rounds: int) -> None:
        self._rounds, self._seen, self._seconds = rounds, 0, 0.0

    def after(self, metrics: RoundMetrics) -> float:
        """The estimate after this round."""
        self._seen += 1
        self._seconds += metrics.seconds
        return float(self._seconds / self._seen * (self._rounds - metrics.round))
