"""Label skew by a Dirichlet distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Features, Indices, Labels, skew_groups


@final
@dataclass(frozen=True)
class Dirichlet:
    """Each class is shared out by its own proportions ~ Dir(alpha): small alpha is skewed.

    Yurochkin et al. 2019 (section 5), Hsu et al. 2019. Sizes of silos vary with alpha, too.
    """

    alpha: float

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """See `Partitioner.deal`."""
        groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        return skew_groups(groups, self.alpha, silos, rng)
