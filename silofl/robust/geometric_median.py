"""The point from which the sum of distances to all updates is least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import Fraction, PositiveInt
from silofl.robust._points import Points
from silofl.robust.base import Scene, WeighingRule

SAME = 1e-9
"""How much less than its own weight the others pull at an update that is the median itself, relatively."""


@final
@dataclass(frozen=True)
class GeometricMedian(WeighingRule):
    """Geometric median by the smoothed Weiszfeld algorithm (Pillutla et al. 2022, "RFA", algorithm 2).

    An update that is the median itself is found by the condition of Vardi & Zhang (2000) and given as it is.
    """

    smoothing: Fraction = 1e-6
    """The least distance that is divided by, as a part of the updates' mean distance from their mean."""
    iterations: PositiveInt = 1000
    """At most so many steps, which end as soon as nothing moves."""

    paper = "Pillutla et al. 2022"

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Weights in inverse proportion to distances."""
        for one in points.combinations:
            if self._holds(points, one, points.to(one)):
                return np.asarray(one)
        weights = np.full(len(points), 1 / len(points))
        least = self.smoothing * float(points.to(points.mean()).mean())
        for _ in range(self.iterations):
            inverse = 1 / np.maximum(points.to(points.mean(weights)), least)
            after = inverse / inverse.sum()
            moved, weights = np.abs(after - weights).max(), after
            if moved < np.finfo(np.float64).eps:
                break
        return points.mean(weights)

    def _holds(self, points: Points, one: NDArray[np.float64], distances: NDArray[np.float64]) -> bool:
        """Whether the pull of the others on a point is less than its own weight."""
        here = distances == 0
        if here.all():
            return True
        pull = np.where(here, 0.0, 1 / np.where(here, 1.0, distances))
        force = float(np.sqrt(max(0.0, float(pull @ points.products(one) @ pull))))
        return force < int(here.sum()) * (1 - SAME)
