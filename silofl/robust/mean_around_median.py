"""The mean of the values of each coordinate that are nearest to its median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from silofl.robust.base import ResilientRule
from silofl.types import Vector


@final
@dataclass(frozen=True)
class MeanAroundMedian(ResilientRule):
    """Mean around median (MeaMed; Xie et al. 2018, definition 9): of the n - f values nearest to it."""

    paper = "Xie et al. 2018"

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """Of values equally far on both sides the smaller is taken."""
        from silofl_kernels import mean_around, median

        median(rows, out)
        mean_around(rows, out, out, count=len(rows) - f)
