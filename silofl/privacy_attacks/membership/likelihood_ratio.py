"""How likely a record's confidence is where it was trained on, and where it was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from silofl.privacy_attacks.membership.base import Bools, Evidence, Floats, MembershipInference, both_sides

LEAST_LOSS = 1e-12
"""Smaller ones, which single precision has as 0, are as sure as this."""


@final
@dataclass(frozen=True)
class LikelihoodRatio(MembershipInference):
    """LiRA, online (Carlini et al. 2022, algorithm 1), with few shadow models.

    The confidence p of the right class as log p / (1 - p) is taken to be normal: with a mean of each record's
    own, in and out of the training data, and one variance for all records, which the paper takes of fewer
    than 64 models (section VI-C).
    """

    paper: ClassVar[str] = "Carlini et al. 2022"
    shadows: ClassVar[bool] = True

    def scores(self, evidence: Evidence) -> Floats:
        """The logarithm of the likelihood ratio."""
        both_sides(evidence)
        found = log_odds(evidence.losses)
        every, members = log_odds(evidence.shadow_losses), evidence.shadow_members
        inside, outside = (_likelihood(found, every, chosen) for chosen in (members, ~members))
        return inside - outside


def log_odds(losses: Floats) -> Floats:
    """log p / (1 - p) of cross entropies -log p, in the same shape."""
    sure = np.maximum(losses, LEAST_LOSS)
    return np.asarray(-sure - np.log(-np.expm1(-sure)))


def _likelihood(found: Floats, every: Floats, chosen: Bools) -> Floats:
    """Logarithm of the normal density at `found` (m,), of those of `every` (k, m) that are chosen."""
    kept = np.where(chosen, every, np.nan)
    means = np.nanmean(kept, axis=0)
    variance = max(float(np.nanmean((kept - means) ** 2)), 1e-12)
    return np.asarray(-((found - means) ** 2) / (2 * variance) - np.log(variance) / 2)
