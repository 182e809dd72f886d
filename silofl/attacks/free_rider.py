"""Nothing learnt, in the hope that nobody sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import NonNegativeFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FreeRider(LiveAttack):
    """Free riding (Lin et al. 2019, section 3.1): no update, or noise that should look like one."""

    deviation: NonNegativeFloat = 0.0
    """Standard deviation of normal noise; 0 for an update of zeros."""

    paper = "Lin et al. 2019"

    def forge(self, insight: Insight) -> Vector:
        """deviation * N(0, 1)."""
        drawn = self.deviation * insight.rng.standard_normal(len(insight.own))
        return drawn.astype(insight.own.dtype)
