"""What every logger of another program does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from silofl.config import Config
from silofl.report.round_metrics import RoundMetrics
from silofl.types import MetricValue


class Logger(Protocol):
    """Follows a run on the rank that leads it. It may raise: it is switched off then, and the run goes on.

    It is told what all silos know: metrics as they are shared, and no value of anybody's data. Its library is
    imported by its methods alone: ranks are forks of a process that must have no threads.

    Attributes:
        needs: the module that it needs.
        extra: what installs that, such as `report`.
    """

    needs: ClassVar[str]
    extra: ClassVar[str]

    def __init__(self, path: Path, config: Config) -> None:
        """Of a run with this directory and configuration."""

    def begin(self, plan: dict[str, Any]) -> None:
        """The run is about to start, at round `plan["first_round"]`."""

    def round(self, metrics: RoundMetrics) -> None:
        """A round is over."""

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is over."""

    def close(self) -> None:
        """The run ended early, or another rank leads; harmless when done already."""


def scalars_of(metrics: RoundMetrics) -> dict[str, float]:
    """Metrics, epsilon, density, bytes and seconds of a round; a silo's own metrics if it shows them.

    A metric by the name of something else here is under `metrics/`; a tensor's values are one by one.
    """
    values: dict[str, float] = {"bytes_sent": metrics.bytes_sent, "seconds": metrics.seconds}
    if metrics.epsilon is not None:
        values["epsilon"] = metrics.epsilon
    if metrics.density is not None:
        values["density"] = metrics.density
    values |= {f"seconds/{name}": value for name, value in metrics.seconds_by_phase.items()}
    for silo, own in enumerate(metrics.per_silo):
        values |= {f"silo-{silo}/{name}": value for name, value in own.items() if value is not None}
    taken = set(values)
    for name, value in metrics.means.items():
        values |= dict(_scalars(f"metrics/{name}" if name in taken else name, value))
    return values


def _scalars(tag: str, value: MetricValue) -> Iterator[tuple[str, float]]:
    """The numbers of a metric by tag: `name`, or `name/row/column`."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _scalars(f"{tag}/{index}", one)
    elif value is not None:
        yield tag, value
