"""Random-k: some of the values, drawn anew in each round, the same ones in every silo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from silofl.compression.base import Codec, Draw
from silofl.constrained import Fraction
from silofl.types import Vector

if TYPE_CHECKING:
    from silofl_kernels import RandomK as Support


@final
@dataclass(frozen=True)
class RandomK(Codec):
    """Random sparsification (Wangni et al. 2018; Konecny et al. 2016, "random mask"), on one support for all.

    The vector is cut into k = `ratio` d strata of neighbours, and of each one value is drawn by the round's
    public key: no index travels. A value counts d/k times, which is unbiased. With
    `compress.error_feedback` it counts once, and those that were not drawn are added to the next round's.
    """

    ratio: Fraction = 0.1
    """Which part of the values is sent."""

    in_place = False
    shortens = True
    paper = "Wangni et al. 2018"

    def size(self, length: int) -> int:
        """See `Codec`."""
        return min(length, max(1, round(self.ratio * length)))

    def encode(self, values: Vector, draw: Draw) -> Vector:
        """See `Codec`."""
        sent = np.empty(self.size(len(values)), values.dtype)
        self._support(len(values), draw).gather(values, sent)
        return sent

    def decode(self, sent: Vector, draw: Draw, length: int) -> Vector:
        """See `Codec`."""
        values, support = np.zeros(length, sent.dtype), self._support(length, draw)
        support.scatter_add(values, sent, weight=1.0 if draw.keeps_error else support.factor)
        return values

    def remainder(self, values: Vector, sent: Vector, draw: Draw) -> Vector:
        """See `Codec`: values that were not drawn are left as they are."""
        support = self._support(len(values), draw)
        support.scatter_add(values, sent, weight=-1.0 if draw.keeps_error else -support.factor)
        return values

    def _support(self, length: int, draw: Draw) -> Support:
        from silofl_kernels import RandomK, Stream  # with a compiler, which a configuration does not need

        return RandomK(Stream("aes-128-ctr", draw.key), length, self.size(length))
