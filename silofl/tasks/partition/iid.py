"""Silos of about equal size and the same distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Indices, Records


@final
@dataclass(frozen=True)
class Iid:
    """Each sample at any silo alike: sizes differ as those of independent draws do."""

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """See `Partitioner.assign`."""
        return (records.places * silos).astype(np.intp)
