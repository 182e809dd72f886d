"""Equal silos of the same distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Features, Indices, Labels


@final
@dataclass(frozen=True)
class Iid:
    """A shuffled data set cut into parts whose sizes differ by at most one."""

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """See `Partitioner.deal`."""
        return np.array_split(rng.permutation(len(labels)), silos)
