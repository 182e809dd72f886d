"""The clipping norm of silos' updates: fixed, or following a quantile of their norms by a noisy count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from silofl.aggregation.base import Aggregator
from silofl.config import PrivacyConfig
from silofl.privacy.clipping import clip
from silofl.privacy.plan import COUNT_SENSITIVITY, COUNT_UNIT
from silofl.types import Vector
from silofl_kernels import NoiseTable, Stream, draw_noise

MOST_STRETCH = 1e6
"""How far the clipping norm may move from where it began, as a factor."""
RATE = 0.2
"""Of the norm's logarithm, for each part of the silos by which the count is off (Andrew et al. 2021)."""


class ClipNorm:
    """The norm on one rank; the same on every rank.

    Attributes:
        value: of the next round.
    """

    def __init__(self, config: PrivacyConfig) -> None:
        self._first, self._quantile = config.clip_norm, config.clip_quantile
        self.value = config.clip_norm
        self._within = True

    @property
    def follows(self) -> bool:
        """Whether it changes from round to round."""
        return self._quantile is not None

    @property
    def stretch(self) -> float:
        """The norm over the configured one, for which the grid is made."""
        return self.value / self._first

    @property
    def own_count(self) -> float:
        """What this silo adds to the count of those within the norm, without noise, in `COUNT_UNIT`s."""
        return COUNT_SENSITIVITY if self._within else -COUNT_SENSITIVITY

    def clip(self, vectors: Sequence[Vector]) -> bool:
        """Scale vectors in place to a joint norm of at most the configured one; whether all are finite."""
        norm = clip(vectors, self.value)
        self._within = norm <= self.value
        if self.stretch != 1.0:
            for vector in vectors:
                np.divide(vector, self.stretch, out=vector)
        return math.isfinite(norm)

    def follow(self, aggregator: Aggregator, table: NoiseTable, stream: Stream | None) -> int | None:
        """Move towards the quantile by a noisy count of silos within the norm; collective.

        Andrew et al. 2021, algorithm 1.

        Args:
            aggregator: adds up the count.
            table: of this silo's noise on it, in `COUNT_UNIT`s of a silo.
            stream: secret, used for nothing else, and for no other `own_count`; None on a rank without data,
                which is not counted and adds no noise.

        Returns:
            How many silos were counted; None where one failed meanwhile, and the norm stays.
        """
        assert self._quantile is not None
        own = np.zeros(2)
        if stream is not None:
            noise = np.zeros(1, np.int32)
            draw_noise(noise, table, stream)
            own[:] = self.own_count + float(noise[0]), 1.0
        total, silos = aggregator.sum_scalars(own)
        if np.isnan(total):
            return None
        within = min(max(total / silos / COUNT_UNIT + 0.5, 0.0), 1.0)
        norm = self.value * math.exp(-RATE * (within - self._quantile))
        norm = min(max(norm, self._first / MOST_STRETCH), self._first * MOST_STRETCH)
        self.value = float(f"{norm:.9g}")  # the last bits of exp() differ between libraries
        return int(np.rint(silos))
