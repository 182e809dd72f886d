"""Noise in the place of what was learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import PositiveFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Gaussian(LiveAttack):
    """Gaussian attack (Blanchard et al. 2017, section 5): normal values of mean 0."""

    deviation: PositiveFloat = 1.0
    """Their standard deviation; in the paper 200."""

    paper = "Blanchard et al. 2017"

    def forge(self, insight: Insight) -> Vector:
        """deviation * N(0, 1)."""
        drawn = self.deviation * insight.rng.standard_normal(len(insight.own))
        return drawn.astype(insight.own.dtype)
