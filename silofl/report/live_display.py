"""A run as one live table: progress, the last rounds, and the seconds by phase."""

from __future__ import annotations

from collections import deque
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from silofl.report.lines import Eta, closing, duration, opening, phases, spread
from silofl.report.round_metrics import RoundMetrics

ROUNDS_SHOWN = 12
NUMBERS = ("loss", "accuracy", "epsilon")


class LiveDisplay:
    """Redraws in place on a terminal; leaves the last state and the closing lines behind."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=False)
        self._rounds: deque[RoundMetrics] = deque(maxlen=ROUNDS_SHOWN)
        self._plan: dict[str, Any] = {}
        self._eta, self._left = Eta(0), 0.0

    def begin(self, plan: dict[str, Any]) -> None:
        """Open the table."""
        self._plan, self._eta = plan, Eta(plan["rounds"])
        for line in opening(plan):
            self._console.print(line, markup=False, highlight=False)
        self._live.start()

    def notice(self, text: str) -> None:
        """A line above the table."""
        self._live.console.print(f"  note: {text}", markup=False, highlight=False)

    def round(self, metrics: RoundMetrics) -> None:
        """Redraw with this round as the newest."""
        self._rounds.append(metrics)
        self._left = self._eta.after(metrics)
        self._live.update(self._draw())

    def finish(self, summary: dict[str, Any]) -> None:
        """Close the table and say where to look."""
        self.close()
        for line in closing(summary, self._plan["path"]):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back; harmless when done already."""
        self._live.stop()

    def _draw(self) -> Group:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("round", *self._numbers, "over silos", "seconds", "of which"):
            table.add_column(heading, justify="right" if heading in ("round", *NUMBERS) else "left")
        for metrics in self._rounds:
            table.add_row(*self._cells(metrics))
        done, rounds = self._rounds[-1].round, self._plan["rounds"]
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(ProgressBar(rounds, done, width=40), Text(f"{done}/{rounds}  eta {duration(self._left)}"))
        return Group(table, bar)

    @property
    def _numbers(self) -> list[str]:
        """The numbers that have a column: epsilon where there is privacy to spend."""
        return [name for name in NUMBERS if name != "epsilon" or self._plan["privacy"]]

    def _cells(self, metrics: RoundMetrics) -> list[str]:
        numbers = [f"{metrics.shown[name]:.4f}" if name in metrics.shown else "" for name in self._numbers]
        where = spread(metrics.per_silo).removeprefix("silos ")
        return [
            str(metrics.round),
            *numbers,
            where,
            f"{metrics.seconds:.2f}",
            phases(metrics.seconds_by_phase),
        ]
