"""A run as plain lines: for pipes, log files and queues."""

from __future__ import annotations

from typing import Any, TextIO

from silofl.report.lines import Eta, closing, opening, round_line
from silofl.report.round_metrics import RoundMetrics


class TextDisplay:
    """One line a round, flushed at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._plan: dict[str, Any] = {}
        self._eta = Eta(0)

    def begin(self, plan: dict[str, Any]) -> None:
        """Say what is about to run."""
        self._plan, self._eta = plan, Eta(plan["rounds"])
        self._print(*opening(plan))

    def notice(self, text: str) -> None:
        """A line of its own."""
        self._print(f"  note: {text}")

    def round(self, metrics: RoundMetrics) -> None:
        """The round's line."""
        self._print(round_line(metrics, self._plan["rounds"], self._eta.after(metrics)))

    def finish(self, summary: dict[str, Any]) -> None:
        """What happened and where to look."""
        self._print(*closing(summary, self._plan["path"]))

    def close(self) -> None:
        """Nothing to release."""

    def _print(self, *lines: str) -> None:
        for line in lines:
            print(line, file=self._out, flush=True)
