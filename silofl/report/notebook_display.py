"""A run as a table in a notebook's cell, drawn anew after each round by rich."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from silofl.report.lines import closing, opening
from silofl.report.live_display import LiveDisplay
from silofl.report.round_metrics import RoundMetrics


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    return Console().is_jupyter


class NotebookDisplay(LiveDisplay):
    """One output of the cell, which is updated: lines of the beginning, the table, notices and the end."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self._handle: Any = None
        self._first: list[str] = []
        self._notices: list[str] = []
        self._last: list[str] = []

    def begin(self, plan: dict[str, Any]) -> None:
        """Make the output."""
        super().begin(plan)
        self._live.stop()
        self._first = opening(plan)[:1]
        self._handle = import_module("IPython.display").display(self._output(), display_id=True)

    def notice(self, text: str) -> None:
        """A line below the table."""
        self._notices.append(f"note: {text}")
        self._show()

    def round(self, metrics: RoundMetrics) -> None:
        """Draw this round as the newest."""
        self._rounds.append(metrics)
        self._left = self._eta.after(metrics)
        self._show()

    def finish(self, summary: dict[str, Any]) -> None:
        """Say where to look."""
        self._last = closing(summary, self._plan["path"])
        self._show()

    def close(self) -> None:
        """Nothing: the output stays as it is."""

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self._output())

    def _output(self) -> Table:
        """A table of one column, which notebooks know how to show."""
        output = Table.grid()
        output.add_row(Group(*map(Text, self._first)))
        if self._rounds:
            output.add_row(self._draw())
        output.add_row(Group(*map(Text, [*self._notices, *self._last])))
        return output
