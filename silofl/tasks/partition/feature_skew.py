"""Feature skew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.partition.base import Features, Indices, Labels, skew_groups

_BINS = 10


@final
@dataclass(frozen=True)
class FeatureSkew:
    """Samples binned by the deciles of their first principal component, each bin shared out ~ Dir(alpha).

    As `Dirichlet`, with "looks alike" in the place of "has the same label"; no sample is altered.
    """

    alpha: float

    def deal(self, features: Features, labels: Labels, silos: int, rng: np.random.Generator) -> list[Indices]:
        """See `Partitioner.deal`."""
        order = np.argsort(first_component(features), kind="stable")
        groups = np.array_split(order, min(_BINS, len(order)))
        return skew_groups(groups, self.alpha, silos, rng)


def first_component(features: NDArray[Any]) -> NDArray[np.float64]:
    """Each sample's place on the first principal component: (n, ...) -> (n,).

    Rounded to a millionth of the largest, and with a fixed sign, so that processors whose sums differ in the
    last bits put the samples in the same order.
    """
    rows = features.reshape(len(features), -1).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axis = axes[:, -1] * np.sign(axes[np.argmax(np.abs(axes[:, -1])), -1])
    places = centred @ axis
    largest = float(np.abs(places).max())
    return np.asarray(np.round(places / largest, 6) if largest > 0 else np.zeros(len(rows)))
