"""Statistics of all silos' tables, as `silofl stats` shows them."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_MOST = 12
"""Categories of a column that are shown."""


def print_statistics(found: dict[str, Any], path: str) -> None:
    """Print what `table_statistics` found, and where it is written."""
    # Plain in any case: an mpirun gives its ranks a terminal, and may write what they print to a file.
    console = Console(highlight=False, force_terminal=False, width=shutil.get_terminal_size().columns)
    least, hidden = found.get("least_count"), "hidden"

    def count(value: int | None) -> str:
        return hidden if value is None else str(value)

    samples = f"<{least}" if found["samples"] is None else str(found["samples"])
    console.print(f"{samples} {found.get('unit', 'sample')}s of {len(found['silos'])} of {found['of']} silos")
    table = Table(
        "column", "count", "missing", "mean", "deviation", "5 %", "median", "95 %", box=None, pad_edge=False
    )
    for one in found["columns"]:
        if "counts" in one:
            continue
        quantiles = one["quantiles"] or {}
        numbers = [one["mean"], one["deviation"], *(quantiles.get(key) for key in ("0.05", "0.5", "0.95"))]
        texts = ["-" if number is None else f"{number:.5g}" for number in numbers]
        texts[0] += f" ± {one['mean_noise']:.2g}" if one.get("mean_noise") else ""
        table.add_row(escape(one["name"]), count(one["count"]), count(one["missing"]), *texts)
    if table.row_count:
        console.print(table)
    counted = [("classes", found["classes"])] if "classes" in found else []
    counted += [(one["name"], one["counts"]) for one in found["columns"] if "counts" in one]
    for name, counts in counted:
        shown = [f"{text} {count(value)}" for text, value in list(counts.items())[:_MOST]]
        more = [f"and {len(counts) - _MOST} more"] if len(counts) > _MOST else []
        console.print(f"{name}: {', '.join(shown + more)}", soft_wrap=True, markup=False)
    if "noise" in found:
        console.print(f"every count: noise of deviation {found['noise']:.4g}", soft_wrap=True)
        console.print(f"privacy: {found['privacy']}", soft_wrap=True, markup=False)
    else:
        console.print(f"{hidden}: counts below {least}, and others that would tell them", soft_wrap=True)
    console.print(f"written to {path}", soft_wrap=True, markup=False)
