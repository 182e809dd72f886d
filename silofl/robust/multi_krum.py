"""The mean of the updates whose neighbours are nearest."""

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
class MultiKrum(WeighingRule):
    """Multi-Krum (Blanchard et al. 2017, section 4): the mean of the m updates of lowest Krum scores.

    Scores are as of `krum`.
    """

    m: PositiveInt | None = None
    """Of how many updates the mean is; n - f when unset, and never more."""
    neighbours: PositiveInt | None = None
    """How many nearest others a score sums, in the place of n - f - 2."""

    paper = "Blanchard et al. 2017"

    def fewest(self, f: int) -> int:
        """See `ResilientRule`."""
        return 2 * f + 3 if self.neighbours is None else max(2 * f + 1, self.neighbours + 1)

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Equal parts of m updates."""
        left = len(points) - scene.f
        chosen = min(self.m or left, left)
        weights = np.zeros(len(points))
        weights[best_by_neighbours(points.distances() ** 2, self.neighbours or left - 2, chosen)] = 1.0
        return points.mean(weights)
