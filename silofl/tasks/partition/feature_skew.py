"""Feature skew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.tasks.partition.base import Features, Indices, Records, by_shares, shares

_DIRECTIONS = 3


@final
@dataclass(frozen=True)
class FeatureSkew:
    """Samples that lie in the same direction from the centre are one group, which is shared out ~ Dir(alpha).

    As `Dirichlet`, with "looks alike" in the place of "has the same label"; no sample is altered. A group is
    the signs of a sample's places along random directions (Charikar 2002, section 3): unlike quantiles of
    the data it is each sample's own.
    """

    alpha: float

    def assign(self, records: Records, silos: int, rng: np.random.Generator) -> Indices:
        """See `Partitioner.assign`."""
        directions = rng.standard_normal((records.features.shape[1], _DIRECTIONS))
        drawn = shares(self.alpha, 2**_DIRECTIONS, silos, records.published, rng)
        return by_shares(records.places, drawn, groups(records.features, directions))


def groups(features: Features, directions: Features) -> Indices:
    """Each sample's group: (n, d), (d, k) -> (n,), below 2^k.

    Column by column, for the order of the additions of a matrix product depends on the processor.
    """
    along = np.zeros((len(features), directions.shape[1]))
    for column, weights in zip(features.T, directions, strict=True):
        along += column[:, None] * weights
    signs = (along > 0).astype(np.intp)
    return signs @ (1 << np.arange(directions.shape[1], dtype=np.intp))
