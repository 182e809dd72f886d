"""No attack."""

from dataclasses import dataclass
from typing import final

from silofl.attacks.base import Attack


@final
@dataclass(frozen=True)
class NoAttack(Attack):
    """Every silo does as it should."""
