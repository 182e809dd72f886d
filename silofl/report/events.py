"""TensorBoard event files, written where the extra `report` is installed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from silofl.report.round_metrics import RoundMetrics
from silofl.types import MetricValue


class EventFiles:
    """Scalars of every round under `<run>/trace`.

    Written at once and not by TensorBoard's own thread, whose failure would end the run. A disk that refuses
    ends the event file; what must not be lost is in `metrics.jsonl`.
    """

    def __init__(self, path: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._open = True
        try:
            (path / "trace").mkdir(parents=True, exist_ok=True)
            file = (path / "trace" / f"events.out.tfevents.{time.time_ns()}").open("ab", buffering=0)
            self._records: Any = RecordWriter(file)
        except OSError:
            self._open = False
        self._write(file_version="brain.Event:2")

    def begin(self, plan: dict[str, Any]) -> None:
        """Rounds that a resume will run again are hidden from here on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        if plan["first_round"] > 1:
            self._write(step=plan["first_round"], session_log=SessionLog(status=SessionLog.START))

    def notice(self, text: str) -> None:
        """Events hold numbers only."""

    def round(self, metrics: RoundMetrics) -> None:
        """Metrics, epsilon, density, bytes and seconds of the round; a silo's own metrics if it shows them.

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
        self._write_scalars(values, metrics.round)

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; harmless when done already."""
        if self._open:
            self._records.close()
        self._open = False

    def _write_scalars(self, values: dict[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=Summary(value=points))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._open:
            try:
                self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
            except OSError:
                self._open = False


def available() -> bool:
    """Whether event files can be written here."""
    return find_spec("tensorboard") is not None


def _scalars(tag: str, value: MetricValue) -> Iterator[tuple[str, float]]:
    """The numbers of a metric by tag: `name`, or `name/row/column`."""
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _scalars(f"{tag}/{index}", one)
    elif value is not None:
        yield tag, value
