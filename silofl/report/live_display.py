"""A run as one live table: progress, the last rounds, and the seconds by phase."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from silofl.report.lines import Eta, closing, duration, opening, phases, spread, value_text
from silofl.report.round_metrics import FIRST, RoundMetrics

ROUNDS_SHOWN = 12
BESIDE = ("over silos", "seconds", "of which")
"""Columns after the metrics."""
WIDE = 10_000
WAYS = ((2, BESIDE), (1, BESIDE), (1, BESIDE[:2]), (1, BESIDE[1:2]))
"""Spaces between columns, and which are there beside the metrics: the first that fits into the terminal."""


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
        drawn = [self._table(*way) for way in WAYS]
        table = next((one for one in drawn if self._width(one) <= self._console.width), drawn[-1])
        done, rounds = self._rounds[-1].round, self._plan["rounds"]
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(ProgressBar(rounds, done, width=40), Text(f"{done}/{rounds}  eta {duration(self._left)}"))
        return Group(table, bar)

    def _width(self, table: Table) -> int:
        """What it takes where nothing is wrapped or cut."""
        return Measurement.get(self._console, self._console.options.update(max_width=WIDE), table).maximum

    def _table(self, spaces: int, beside: Sequence[str]) -> Table:
        table = Table(box=None, padding=(0, spaces, 0, 0), pad_edge=False)
        table.add_column("round", justify="right")
        for name in self._names():
            table.add_column(Text(name), justify="right")
        for heading in beside:
            table.add_column(heading)
        for metrics in self._rounds:
            table.add_row(*self._cells(metrics, beside))
        return table

    def _names(self) -> list[str]:
        """What has a column: loss, accuracy, the task's other metrics, epsilon where there is privacy."""
        names = dict.fromkeys(name for metrics in self._rounds for name, _ in metrics.shown)
        always = FIRST if self._plan["evaluates"] else ()
        first = [*always, *(name for name in names if name not in (*always, "epsilon"))]
        return [*first, *(["epsilon"] if self._plan["private"] or "epsilon" in names else [])]

    def _cells(self, metrics: RoundMetrics, beside: Sequence[str]) -> list[str | Text]:
        shown = dict(metrics.shown)
        numbers = [Text(value_text(shown[name]) if name in shown else "") for name in self._names()]
        told = (
            spread(metrics.per_silo).removeprefix("silos "),
            f"{metrics.seconds:.2f}",
            phases(metrics.seconds_by_phase),
        )
        cells = dict(zip(BESIDE, told, strict=True))
        return [str(metrics.round), *numbers, *(cells[heading] for heading in beside)]
