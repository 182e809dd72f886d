"""Ways of waiting for silos, as `silofl simulate` compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_comparison(outcomes: Sequence[Mapping[str, Any]], seconds: Sequence[float], target: str) -> None:
    """Print one line for each way, and which reaches the target first."""
    console = Console(highlight=False, force_terminal=False)
    told = ", ".join(f"{one:.3g}" for one in seconds)
    console.print(f"silos take {told} s for a round; target: {escape(target)}", soft_wrap=True)
    table = Table("", "a sum opens", "rounds", "updates", "staleness", "seconds", box=None, pad_edge=False)
    for one in outcomes:
        rounds = "not reached" if one["rounds"] is None else str(one["rounds"])
        counts = str(one["updates"]), f"up to {one['staleness']}", f"{one['seconds']:.4g}"
        table.add_row(one["policy"], one["waits"], rounds, *counts)
    console.print(table)
    there = [one for one in outcomes if one["rounds"] is not None]
    if there:
        first = min(there, key=lambda one: float(one["seconds"]))
        console.print(f"first: {first['policy']}, after {first['seconds']:.4g} s", soft_wrap=True)
