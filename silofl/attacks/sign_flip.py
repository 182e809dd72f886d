"""What was learnt, with the other sign."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import PositiveFloat
from silofl.types import Vector


@final
@dataclass(frozen=True)
class SignFlip(LiveAttack):
    """Sign flipping (Li et al. 2019, "RSA", section 5): minus `scale` times the silo's own update.

    What ByzFL has under this name is minus the honest mean: `inner_product` with `epsilon` 1.
    """

    scale: PositiveFloat = 1.0
    """By what it is multiplied, besides -1."""

    paper = "Li et al. 2019"

    def forge(self, insight: Insight) -> Vector:
        """-scale * own."""
        return insight.own * insight.own.dtype.type(-self.scale)
