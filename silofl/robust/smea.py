"""The mean of the updates that vary least in the direction in which they vary most."""

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
class SmallestMaximumEigenvalueAveraging(WeighingRule):
    """SMEA (Allouah et al. 2023, "On the Privacy-Robustness-Utility Trilemma", section 4).

    The mean of the n - f updates whose covariance, with their own mean and divided by their number, has the
    smallest largest eigenvalue. All choices are looked through.
    """

    paper = "Allouah et al. 2023"

    def refusal(self, silos: int) -> str | None:
        """See `ResilientRule`; also where choices are too many."""
        return super().refusal(silos) or too_many("smea", -(-silos // self.bucket), self.f)

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Equal parts of those."""
        squares = points.distances() ** 2

        def cost(chosen: list[int]) -> tuple[float]:
            among = squares[chosen][:, chosen]
            centred = among - among.mean(axis=0) - among.mean(axis=1)[:, None] + among.mean()
            return (float(np.linalg.eigvalsh(-0.5 * centred)[-1]),)

        weights = np.zeros(len(points))
        weights[best_subset(len(points), scene.f, cost)] = 1.0
        return points.mean(weights)
