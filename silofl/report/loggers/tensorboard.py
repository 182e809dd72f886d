"""TensorBoard event files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar, final

from silofl.config import Config
from silofl.report.loggers.base import scalars_of
from silofl.report.round_metrics import RoundMetrics


@final
class EventFiles:
    """Scalars of every round under `<run>/trace`.

    Written at once and not by TensorBoard's own thread, whose failure would end the run.
    """

    needs: ClassVar[str] = "tensorboard"
    extra: ClassVar[str] = "report"

    def __init__(self, path: Path, config: Config) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        (path / "trace").mkdir(parents=True, exist_ok=True)
        file = (path / "trace" / f"events.out.tfevents.{time.time_ns()}").open("ab", buffering=0)
        self._open, self._records = True, RecordWriter(file)
        self._write(file_version="brain.Event:2")

    def begin(self, plan: dict[str, Any]) -> None:
        """Rounds that a resume will run again are hidden from here on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        if plan["first_round"] > 1:
            self._write(step=plan["first_round"], session_log=SessionLog(status=SessionLog.START))

    def round(self, metrics: RoundMetrics) -> None:
        """`scalars_of` the round."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars_of(metrics).items()]
        self._write(step=metrics.round, summary=Summary(value=points))

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; harmless when done already."""
        if self._open:
            self._records.close()
        self._open = False

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
