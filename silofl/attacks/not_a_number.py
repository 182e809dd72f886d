"""Values that are no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.attacks.base import Insight, LiveAttack
from silofl.types import Vector


@final
@dataclass(frozen=True)
class NotANumber(LiveAttack):
    """NaN in every coordinate: a mean of it is NaN, and so is the model."""

    paper = "IEEE 754-2019, section 6.2"

    def forge(self, insight: Insight) -> Vector:
        """NaN."""
        return np.full_like(insight.own, np.nan)
