"""A mean by weights that fall where updates stick out in the direction in which they vary most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.robust._points import Points
from silofl.robust.base import Scene, WeighingRule


@final
@dataclass(frozen=True)
class CovarianceAgnosticFilter(WeighingRule):
    """CAF, the covariance bound-agnostic filter (Allouah et al. 2025, algorithm 2).

    Weights c, 1 at first, become c (1 - t / max t), the maximum where c > 0, with t the squares of the
    updates' parts, less their mean, along the first eigenvector of their covariance, as long as they add up
    to more than n - 2 f. The mean of the weights whose covariance had the smallest largest eigenvalue is
    given.
    """

    paper = "Allouah et al. 2025"

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """The best mean that was come by."""
        count = len(points)
        weights, least, found = np.ones(count), math.inf, points.mean()
        while weights.sum() > count - 2 * scene.f:
            mean = points.mean(weights)
            products, roots = points.products(mean), np.sqrt(weights)
            values, vectors = np.linalg.eigh(roots[:, None] * products * roots / weights.sum())
            if values[-1] < least:
                least, found = float(values[-1]), mean
            along = np.where(weights > 0, np.abs(products @ (roots * vectors[:, -1])), 0.0)
            if not along.max() > 0:
                break
            weights = weights * (1 - (along / along.max()) ** 2)
        return found
