"""What `silofl evaluate` found, as tables: metrics of one model by data set, or of model i on data j."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = dict[str, Any]
CROSS_SITE = "cross-site.json"
"""In a run directory: the rows of `silofl evaluate --cross-site`, for `silofl report`."""
_UNBOUNDED = 1000
"""Columns of what is no terminal."""


def print_evaluation(rows: Sequence[Row]) -> None:
    """Print tables of what `Found.to_json` gives: of one model, or a table for each metric of several."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNBOUNDED)
    if len({row["model"] for row in rows}) == 1:
        console.print(_of_one(rows))
        return
    for name in _names(rows):
        console.print(_of_several(rows, name))


def _names(rows: Sequence[Row]) -> list[str]:
    """Metrics that are single numbers."""
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    return [n for n in names if not any(isinstance(row["metrics"].get(n), list) for row in rows)]


def _of_one(rows: Sequence[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("data")
    table.add_column("samples", justify="right")
    names = _names(rows)
    for name in names:
        table.add_column(Text(name), justify="right")
    for row in rows:
        table.add_row(Text(row["data"]), str(row["samples"]), *(_cell(row["metrics"].get(n)) for n in names))
    return table


def _of_several(rows: Sequence[Row], name: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title=Text(name), title_justify="left")
    table.add_column("model")
    data = list(dict.fromkeys(row["data"] for row in rows))
    for one in data:
        table.add_column(Text(one), justify="right")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = {row["data"]: row["metrics"].get(name) for row in rows if row["model"] == model}
        table.add_row(Text(model), *(_cell(own.get(one)) for one in data))
    return table


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
