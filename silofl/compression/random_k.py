"""Random-k: some of the values, drawn anew in each round, the same ones in every silo."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.compression.base import Codec, Draw
from silofl.constrained import Fraction
from silofl.types import Vector


@final
@dataclass(frozen=True)
class RandomK(Codec):
    """Random sparsification (Wangni et al. 2018; Konecny et al. 2016, "random mask"), on one support for all.

    The vector is cut into `ratio` d strata of equal length, to rounding, and of each one value is drawn by
    the round's public key: no index travels. A value counts as many times as its stratum has values, which
    is unbiased. With `compress.error_feedback` it counts once, and those that were not drawn are added to the
    next round's.
    """

    ratio: Fraction = 0.1
    """Which part of the values is sent."""

    in_place = False
    paper = "Wangni et al. 2018"

    def size(self, length: int) -> int:
        """See `Codec`."""
        return min(length, max(1, round(self.ratio * length)))

    def encode(self, values: Vector, draw: Draw) -> Vector:
        """See `Codec`."""
        sent: Vector = values[self._support(len(values), draw)[0]]
        return sent

    def decode(self, sent: Vector, draw: Draw, length: int) -> Vector:
        """See `Codec`."""
        places, lengths = self._support(length, draw)
        values = np.zeros(length, sent.dtype)
        values[places] = sent if draw.keeps_error else sent * lengths.astype(sent.dtype)
        return values

    def _support(self, length: int, draw: Draw) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """int64 (k,), ascending: the places that are drawn; and how long the stratum of each is."""
        from silofl_kernels import Stream, keystream  # with its compiler, which a configuration does not need

        count = self.size(length)
        bounds = np.arange(count + 1, dtype=np.int64) * length // max(count, 1)
        lengths = np.diff(bounds)
        words = np.empty(count, np.uint32)
        keystream(Stream("aes-128-ctr", draw.key), words.view(np.uint8))
        # Within 2^-32 of each other's probability, for strata of up to 2^32 values.
        return bounds[:-1] + (words.astype(np.int64) * lengths >> 32), lengths
