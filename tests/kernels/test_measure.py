"""The timing library: what it runs, how it compares, what it tells."""

from __future__ import annotations

import json
import socket

import pytest
from rich.console import Console

from silofl.bench import kernels, measure


def test_rounds_are_interleaved_and_the_first_is_not_timed() -> None:
    seen: list[str] = []
    ticks = iter(range(100))
    times = measure.interleaved(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, rounds=2, clock=lambda: next(ticks)
    )
    assert "".join(seen) == "ab" * 3
    assert times == {"a": [1, 1], "b": [1, 1]}
    with pytest.raises(ValueError, match="at least one round"):
        measure.interleaved({}, rounds=0)


def test_ratios_are_taken_pair_by_pair() -> None:
    row = measure.row("x", [2.0, 30.0, 4.0], "y", [1.0, 10.0, 1.0], 1.0, "<= 2.5")
    assert (row.seconds, row.fastest, row.slowest) == (4.0, 2.0, 30.0)
    assert (row.ratio, row.ratio_low, row.ratio_high) == (3.0, 2.0, 4.0)  # of medians it would be four
    assert measure.met(row) is False
    assert measure.met(measure.row("x", [2.0], "y", [1.0], 1.0, ">= 1.5")) is True
    assert measure.met(measure.row("x", [2.0], "y", [1.0], 1.0, "")) is None


@pytest.mark.long
def test_every_kernel_has_a_row() -> None:
    rows = kernels.run(parameters=1 << 14, repeats=2)
    names = " ".join(row.name for row in rows)
    for part in (
        "OpenSSL",
        "in cache",
        "0 masks",
        "8 masks, aes",
        "4 masks, chacha20",
        "reduce 4",
        "dequantize",
    ):
        assert part in names
    assert all(row.seconds > 0 and row.ratio > 0 for row in rows)
    told = json.loads(measure.to_json("kernels", rows))
    assert told["machine"]["cores"] >= 1
    assert len(told["rows"]) == len(rows)
    assert socket.gethostname() not in json.dumps(told["machine"]).split('"')
    console = Console(record=True, width=200)
    console.print(measure.table("kernels", rows))
    assert "reduce 4 rows" in console.export_text()
