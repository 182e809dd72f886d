"""Losses that are smaller than a record's difficulty lets expect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.privacy_attacks.membership.base import Evidence, Floats, MembershipInference, both_sides


@final
@dataclass(frozen=True)
class CalibratedLoss(MembershipInference):
    """Difficulty calibration (Watson et al. 2022, section 4): the loss without the record, less its own."""

    paper: ClassVar[str] = "Watson et al. 2022"
    shadows: ClassVar[bool] = True

    def scores(self, evidence: Evidence) -> Floats:
        """See `MembershipInference`."""
        both_sides(evidence)
        without = np.where(evidence.shadow_members, np.nan, evidence.shadow_losses)
        return np.asarray(np.nanmean(without, axis=0) - evidence.losses)
