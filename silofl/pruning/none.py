"""No pruning: all weights are trained and sent."""

from dataclasses import dataclass
from typing import final

from silofl.pruning.base import PruningRule


@final
@dataclass(frozen=True)
class NoPruning(PruningRule):
    """All weights are trained and sent."""
