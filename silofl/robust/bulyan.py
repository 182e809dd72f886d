"""Krum's choice, again and again, and of what it chose the mean around the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from silofl.robust._neighbours import best_by_neighbours
from silofl.robust._points import Matrix, Points
from silofl.robust.base import ResilientRule, Scene
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Bulyan(ResilientRule):
    """Bulyan of Krum (El Mhamdi et al. 2018, section 4); n >= 4 f + 3.

    Krum chooses n - 2 f updates one after another, each among those that are left, of r updates by r - f - 2
    neighbours and at least one. Of each coordinate the mean is over the n - 4 f values nearest to the median.
    """

    whole: ClassVar[bool] = True
    paper = "El Mhamdi et al. 2018"

    def fewest(self, f: int) -> int:
        """See `ResilientRule`."""
        return 4 * f + 3

    def choose(self, points: Points, scene: Scene) -> Matrix:
        """n - 2 f updates."""
        squares, left = points.distances() ** 2, list(range(len(points)))
        chosen: list[int] = []
        while len(chosen) < len(points) - 2 * scene.f:
            among = squares[left][:, left]
            first = 0 if len(left) == 1 else int(best_by_neighbours(among, self._count(left, scene), 1)[0])
            chosen.append(left.pop(first))
        return points.combinations[sorted(chosen)]

    def _count(self, left: Sequence[int], scene: Scene) -> int:
        return max(1, len(left) - scene.f - 2)

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """See `mean_around_median`."""
        from silofl_kernels import mean_around, median

        median(rows, out)
        mean_around(rows, out, out, count=len(rows) - 2 * f)
