"""Small losses are of records that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.privacy_attacks.membership.base import Evidence, Floats, MembershipInference


@final
@dataclass(frozen=True)
class LossThreshold(MembershipInference):
    """One threshold of the loss for all records (Yeom et al. 2018, adversary 2)."""

    paper: ClassVar[str] = "Yeom et al. 2018"

    def scores(self, evidence: Evidence) -> Floats:
        """The loss, turned round."""
        return -evidence.losses
