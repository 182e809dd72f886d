"""The mean of the updates that lie closest together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.robust._points import Points
from silofl.robust._subsets import best_subset, too_many
from silofl.robust.base import Scene, WeighingRule


@final
@dataclass(frozen=True)
class MinimumDiameterAveraging(WeighingRule):
    """MDA (El Mhamdi et al. 2021, section 3): the mean of the n - f updates of least diameter.

    That is the largest distance of two of them; of equals those of the least sum of distances. All choices
    are looked through.
    """

    paper = "El Mhamdi et al. 2021"

    def refusal(self, silos: int) -> str | None:
        """See `ResilientRule`; also where choices are too many."""
        return super().refusal(silos) or too_many("mda", -(-silos // self.bucket), self.f)

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Equal parts of those."""
        distances = points.distances()

        def cost(chosen: list[int]) -> tuple[float, float]:
            among = distances[chosen][:, chosen]
            return float(among.max()), float(among.sum())

        weights = np.zeros(len(points))
        weights[best_subset(len(points), scene.f, cost)] = 1.0
        return points.mean(weights)
