"""The mean without updates that are unusually far from the median."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import PositiveFloat
from silofl.robust._points import Points
from silofl.robust.base import Beside, Scene, WeighingRule

NORMAL = 1.482602218505602
"""1 / Phi^-1(3/4): a median absolute deviation times this is a normal's standard deviation."""


@final
@dataclass(frozen=True)
class DistanceFilter(WeighingRule):
    """The mean of the updates whose distance from the coordinate-wise median is no outlier.

    The median is that of the updates as they were sent. No outlier is at most median + `deviations` * 1.4826
    MAD of all these distances, with MAD the median absolute deviation (Iglewicz & Hoaglin 1993, "How to
    Detect and Handle Outliers").
    """

    deviations: PositiveFloat = 3.0
    """How many of these deviations above the median are usual."""

    paper = "Iglewicz & Hoaglin 1993"

    def beside(self) -> tuple[Beside, ...]:
        """See `ResilientRule`."""
        return (*super().beside(), "median")

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Equal parts of those."""
        distances = points.to(scene.named["median"])
        middle = np.median(distances)
        spread = NORMAL * np.median(np.abs(distances - middle))
        return points.mean((distances <= middle + self.deviations * spread).astype(np.float64))
