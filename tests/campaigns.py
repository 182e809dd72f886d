"""What `make test` runs of a family that has many members, and what it leaves to `make test-long`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def mostly_long(rows: Sequence[Any], *kept: int) -> list[Any]:
    """`rows` as parameters of a test: those at `kept` in every run, the others in `make test-long` alone."""
    assert 0 <= min(kept) <= max(kept) < len(rows)
    single = [row if isinstance(row, tuple) else (row,) for row in rows]
    return [
        pytest.param(*row, marks=[] if number in kept else pytest.mark.long)
        for number, row in enumerate(single)
    ]
