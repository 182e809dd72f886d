"""Quantity skew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Features, Indices, Labels, skew_groups


@final
@dataclass(frozen=True)
class Quantity:
    """Silos of the same distribution whose sizes are proportional to one draw of Dir(alpha).

    Li et al. 2022 (NIID-Bench), section IV-C.
    """

    alpha: float

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """See `Partitioner.deal`."""
        return skew_groups([np.arange(len(labels))], self.alpha, silos, rng)
