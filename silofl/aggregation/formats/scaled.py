"""Fixed point of one word a value, with a range of its own for each tensor, on which all silos agree.

A value x becomes the ring word round(x weight unit / range), to which masks are added modulo 2^bits. All
silos' words are added up in the ring; less the masks that are left, and divided by the total weight, the sum
is the weighted mean again. Before that, silos agree on each tensor's range by a masked sum of a few words,
which shows the largest binary exponent of all silos and nothing else of it.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats.base import Encoded, Ranges, Weight
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.crypto.capacity import check_capacity, word_limit
from silofl.errors import DataError
from silofl.types import RingBits, Vector, Words
from silofl_kernels import (
    MaskSet,
    Segments,
    Stream,
    keystream,
    quantize_and_mask,
    reduce_rows_dequantize,
)

LOWEST, HIGHEST = -64, 96
"""Binary exponents that are told apart; smaller magnitudes count as the lowest."""
LEVELS = HIGHEST - LOWEST + 2
"""One for each exponent, and one for what is larger or not finite."""
LEVEL = np.dtype(np.uint64)
"""Words of a level together. A level that silos reached is taken for empty with probability 2^-64."""


@final
class Scaled:
    """Fixed point of one word a value: |x| <= range, a power of two for each tensor that silos agree on.

    No sum over `silos` can wrap, whatever the weights: `crypto.capacity`.
    """

    lossless: ClassVar[bool] = False
    in_words: ClassVar[bool] = False
    width, largest, resolution = Fraction(1), math.inf, 0.0
    dtype: np.dtype[Any] | None = None

    def __init__(self, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> None:
        self.ranges = len(spec.tensor_ends)
        self._ends, self._stochastic = spec.tensor_ends, stochastic
        self._unit = check_capacity(bits, 1.0, silos, stochastic=stochastic)
        """Ring units at the end of the range, of all silos together."""

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """See `NumberFormat`."""
        return cls(spec, bits, silos, stochastic=stochastic)

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """This silo's values (d,), which become words block by block when they are written to the wire."""
        limit = word_limit(weight.part, 1.0, self._unit, stochastic=self._stochastic)
        scales = weight.factor * self._unit / ranges
        if not limit:  # all of the range rounds to zero: so does what is beyond it
            scales, limit = np.zeros(self.ranges), 1
        segments = Segments(self._ends, scales, np.full(self.ranges, limit, np.int64))
        return _EncodedScaled(values, segments, rounding)

    def steps(self, ranges: Ranges) -> Ranges:
        """Value of one ring unit of each tensor, float64 (m,)."""
        return ranges / self._unit

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Vector
    ) -> None:
        """Write a block's mean over `out`, of the vector's type: its sum, less `masks`, over `total`."""
        steps = self.steps(ranges) / total
        reduce_rows_dequantize(
            [masked], out, steps=steps, ends=self._ends, first=block.first, masks=masks, offset=block.start
        )


class _EncodedScaled:
    """Values that become words block by block, with their rounding errors added up."""

    def __init__(self, values: Vector, segments: Segments, rounding: Stream | None) -> None:
        self._values, self._segments, self._rounding = values, segments, rounding
        self.begin()

    residual: Vector | None = None

    def begin(self) -> None:
        """See `Encoded`."""
        self._squares = np.zeros((len(self._segments), 2))
        self.nonfinite = self.clipped = 0

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """Round a block's values to words and add the masks, in one pass: no word lies unmasked in `out`."""
        counts = quantize_and_mask(
            self._values[block.first : block.last],
            out,
            segments=self._segments,
            first=block.first,
            masks=masks,
            offset=block.start,
            rounding=self._rounding,
            error=self._squares,
        )
        self.nonfinite += counts.nonfinite
        self.clipped += counts.clipped

    def errors(self) -> NDArray[np.float64]:
        """See `Encoded`: root of the squared errors over the squared values; 1 where nothing is sent."""
        error, size = self._squares.T
        found = np.sqrt(np.divide(error, size, out=np.zeros_like(error), where=size > 0))
        found[self._segments.scales == 0] = 1.0
        return found


def encode_exponents(magnitudes: NDArray[np.float64], dtype: np.dtype[Any]) -> Words:
    """Ring words that show, in a sum over silos, each tensor's largest exponent of all silos.

    Up to the smallest e with magnitude <= 2^e every level holds random words, above it zeros: the sum is
    uniform up to the largest e of all silos and zero beyond, whichever and however many silos reached it.

    Args:
        magnitudes: float64 (m,), the largest of each tensor of this silo; infinite where one is not finite.
        dtype: of the ring.
    """
    reached = _exponents(magnitudes) - LOWEST + 1
    levels = np.empty((len(magnitudes), LEVELS), LEVEL)
    keystream(Stream("aes-128-ctr", os.urandom(16)), levels.reshape(-1).view(np.uint8))
    levels *= np.arange(LEVELS) < reached[:, None]
    return levels.reshape(-1).view(dtype)


def decode_ranges(sums: Words, tensors: tuple[str, ...]) -> NDArray[np.float64]:
    """float64 (m,): the smallest 2^e that holds all silos' magnitudes of each tensor, from the sums.

    Raises DataError, the same on every rank, naming a tensor whose values are beyond 2^96 or not finite.
    """
    used = sums.view(LEVEL).reshape(len(tensors), LEVELS) != 0
    reached = LEVELS - 1 - np.argmax(used[:, ::-1], axis=1)
    beyond = np.flatnonzero(reached == LEVELS - 1)
    if beyond.size:
        raise DataError(
            f"a silo's {tensors[beyond[0]]} has values that are not finite, or beyond 2^{HIGHEST}; "
            "nothing was added up",
            rank=0,
        )
    return np.asarray(np.ldexp(1.0, reached + LOWEST))


def _exponents(magnitudes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The smallest e with magnitude <= 2^e, within what is told apart."""
    mantissas, exponents = np.frexp(magnitudes)  # magnitude = mantissa * 2^exponent, 0.5 <= mantissa < 1
    found: NDArray[np.int64] = np.clip(exponents - (mantissas == 0.5), LOWEST, HIGHEST + 1).astype(np.int64)
    found[magnitudes == 0] = LOWEST
    found[~np.isfinite(magnitudes)] = HIGHEST + 1
    return found
