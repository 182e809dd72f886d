"""The one update whose neighbours are nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import PositiveInt
from silofl.robust._neighbours import best_by_neighbours
from silofl.robust._points import Points
from silofl.robust.base import Scene, WeighingRule


@final
@dataclass(frozen=True)
class Krum(WeighingRule):
    """Krum (Blanchard et al. 2017): the update with the least sum of squared distances to its nearest others.

    The sum is over n - f - 2 of them, as in the paper, so that n >= 2 f + 3 silos are needed. Of equals the
    one counts whose next neighbour is nearer. Other libraries have n - f - 1 neighbours, or count an update
    as its own, or take at least one: `neighbours` has any.
    """

    neighbours: PositiveInt | None = None
    """How many nearest others a score sums, in the place of n - f - 2."""

    paper = "Blanchard et al. 2017"

    def fewest(self, f: int) -> int:
        """See `ResilientRule`."""
        return 2 * f + 3 if self.neighbours is None else max(2 * f + 1, self.neighbours + 1)

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """One update."""
        neighbours = self.neighbours or len(points) - scene.f - 2
        (one,) = best_by_neighbours(points.distances() ** 2, neighbours, 1)
        return np.asarray(points.combinations[one])
