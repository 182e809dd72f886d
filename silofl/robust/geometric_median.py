"""The point from which the sum of distances to all updates is least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import Fraction, PositiveInt
from silofl.robust._points import Points
from silofl.robust.base import Scene, WeighingRule

SAME = 1e-12
"""How much more than its own weight the others may pull at an update that is the median, relatively."""


@final
@dataclass(frozen=True)
class GeometricMedian(WeighingRule):
    """Geometric median by the smoothed Weiszfeld algorithm (Pillutla et al. 2022, "RFA", algorithm 2).

    An update that is the median itself is found by the condition of Vardi & Zhang (2000) and given as it is,
    and where several are, as of an even number on a line, the mean of their places. A step is Newton's where
    that leads nearer than Weiszfeld's, which takes thousands where the median is almost an update.
    """

    smoothing: Fraction = 1e-6
    """The least distance that is divided by, as a part of the updates' mean distance from their mean."""
    iterations: PositiveInt = 1000
    """At most so many steps, which end as soon as nothing moves."""

    paper = "Pillutla et al. 2022"

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Weights in inverse proportion to distances."""
        held = np.array([_places(points, one) for one in points.combinations])
        if held.any():
            return points.mean(held)
        weights = np.full(len(points), 1 / len(points))
        away = points.to(points.mean(weights))
        least = self.smoothing * float(away.mean())
        for _ in range(self.iterations):
            inverse = 1 / np.maximum(away, least)
            steps = [inverse / inverse.sum(), _newton(points, weights, away, least)]
            reached = [points.to(points.mean(one)) for one in steps]
            best = int(np.argmin([one.sum() for one in reached]))
            moved, weights, away = np.abs(steps[best] - weights).max(), steps[best], reached[best]
            if moved < np.finfo(np.float64).eps:
                break
        return points.mean(weights)


def _places(points: Points, one: NDArray[np.float64]) -> float:
    """1 over how many points are at the place of `one`, where the pull of all others is no more than they.

    Else 0.
    """
    distances = points.to(one)
    here = distances == 0
    pull = np.where(here, 0.0, 1 / np.where(here, 1.0, distances))
    force = float(np.sqrt(max(0.0, float(pull @ points.products(one) @ pull))))
    return 1 / here.sum() if force <= here.sum() * (1 + SAME) else 0.0


def _newton(
    points: Points, weights: NDArray[np.float64], away: NDArray[np.float64], least: float
) -> NDArray[np.float64]:
    """Weights (r,) after a step of Newton's method on the sum of distances; those given where there is none.

    With u = 1 / `away` the gradient is sum u a, a the points' ways to the mean, and the Hessian sum u times
    the unit matrix less sum u^3 a a^T, whose inverse is known by the Woodbury identity.
    """
    inverse = 1 / np.maximum(away, least)
    whole, roots = inverse.sum(), np.where(away > least, inverse, 0.0) ** 1.5
    products = points.products(points.mean(weights))
    try:
        inner = np.linalg.solve(
            whole * np.eye(len(points)) - roots[:, None] * products * roots, roots * (products @ inverse)
        )
    except np.linalg.LinAlgError:
        return weights
    step = inverse + roots * inner
    return np.asarray(weights - (step.sum() * weights - step) / whole)
