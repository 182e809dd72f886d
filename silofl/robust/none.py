"""Weighted means, which one silo can move anywhere."""

from dataclasses import dataclass
from typing import final

from silofl.robust.base import RobustRule


@final
@dataclass(frozen=True)
class WeightedMean(RobustRule):
    """No rule: the strategy is given the weighted means."""
