"""Label skew by a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Indices, Records, by_shares, shares


@final
@dataclass(frozen=True)
class Dirichlet:
    """Each class is shared out by its own proportions ~ Dir(alpha): small alpha is skewed.

    Yurochkin et al. 2019 (section 5), Hsu et al. 2019. Sizes of silos vary with alpha, too.
    """

    alpha: float

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """See `Partitioner.assign`."""
        drawn = shares(self.alpha, records.classes, silos, records.published, rng)
        return by_shares(records.places, drawn, records.labels.astype(np.intp))
