"""The median of each coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from silofl.robust.base import ResilientRule
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Median(ResilientRule):
    """Coordinate-wise median (Yin et al. 2018, option I): right up to half of the silos less one."""

    paper = "Yin et al. 2018"

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """Of an even number of rows the mean of the middle two."""
        from silofl_kernels import median

        median(rows, out)
