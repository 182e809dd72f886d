"""The mean of updates that are cut to a length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import PositiveFloat
from silofl.robust._points import Points
from silofl.robust.base import Beside, Scene, WeighingRule


@final
@dataclass(frozen=True)
class NormBounding(WeighingRule):
    """Norm bounding (Sun et al. 2019, section 3.1): an attacker moves the mean by `bound` / n at most."""

    bound: PositiveFloat | None = None
    """Length of the longest update that is left as it is; unset, their median length. Under a secure sum each
    silo cuts its own update, which a silo that lies does not."""

    paper = "Sun et al. 2019"
    bounds = True

    @property
    def own_bound(self) -> float | None:
        """See `ResilientRule`."""
        return self.bound

    def beside(self) -> tuple[Beside, ...]:
        """See `ResilientRule`."""
        return ("zero",)

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Parts of all updates."""
        zero = scene.named["zero"]
        lengths = points.to(zero)
        bound = float(np.median(lengths)) if self.bound is None else self.bound
        parts = np.minimum(1.0, bound / np.maximum(lengths, np.finfo(np.float64).tiny)) / len(points)
        return np.asarray(zero + parts @ (points.combinations - zero))
