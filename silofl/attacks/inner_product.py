"""Against the direction in which honest silos go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import PositiveFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class InnerProduct(LiveAttack):
    """Inner-product manipulation (IPM; Xie et al. 2020, "Fall of Empires", section 4): -epsilon * mean.

    The mean is that of the updates that attackers know.
    """

    epsilon: PositiveFloat = 0.5
    """By what the mean is multiplied, besides -1."""

    colludes: ClassVar[bool] = True
    paper = "Xie et al. 2020"

    def forge(self, insight: Insight) -> Vector:
        """-epsilon * mean."""
        return np.asarray(-self.epsilon * insight.rows().mean(axis=0), insight.own.dtype)
