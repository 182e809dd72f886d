"""What was given in the round before, moved by updates that are clipped around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import PositiveFloat, PositiveInt
from silofl.robust._points import Points
from silofl.robust.base import Beside, Scene, WeighingRule


@final
@dataclass(frozen=True)
class CenteredClipping(WeighingRule):
    """Centered clipping (Karimireddy et al. 2021, algorithm 2), from the result of the round before.

    v := v + mean_i (x_i - v) min(1, radius / |x_i - v|). The first round begins with zeros. Momentum is
    that of [train], or of the strategy.
    """

    radius: PositiveFloat | None = None
    """Length to which updates are clipped around the center; unset, their median distance from it."""
    iterations: PositiveInt = 1
    """How often the center is moved in a round."""

    center: ClassVar[bool] = True
    paper = "Karimireddy et al. 2021"

    def beside(self) -> tuple[Beside, ...]:
        """See `ResilientRule`."""
        return (*super().beside(), "center")

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """The center, and parts of the updates."""
        center = scene.named["center"]
        for _ in range(self.iterations):
            lengths = points.to(center)
            radius = float(np.median(lengths)) if self.radius is None else self.radius
            parts = np.minimum(1.0, radius / np.maximum(lengths, np.finfo(np.float64).tiny)) / len(points)
            center = center + parts @ (points.combinations - center)
        return np.asarray(center)
