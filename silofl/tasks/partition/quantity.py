"""Quantity skew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Indices, Records, by_shares, shares


@final
@dataclass(frozen=True)
class Quantity:
    """Silos of the same distribution whose sizes are proportional to one draw of Dir(alpha).

    Li et al. 2022 (NIID-Bench), section IV-C.
    """

    alpha: float

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """See `Partitioner.assign`."""
        drawn = shares(self.alpha, 1, silos, records.published, rng)
        return by_shares(records.places, drawn, np.zeros(len(records.places), np.intp))
