"""Number formats: how a named vector becomes words of a ring, and how their sum becomes values again.

`Scaled` is one word a value: fixed point with a range of its own for each tensor. `Exact` is several words a
value, in which nothing is lost. `Words` are ring integers already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.exact_numbers import MAGNITUDE, exact_format
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.crypto.capacity import check_capacity, word_limit
from silofl.types import RingBits, Vector
from silofl_kernels import (
    MaskSet,
    Segments,
    Stream,
    add_masks,
    quantize_and_mask,
    reduce_rows,
    reduce_rows_dequantize,
    ring_dtype,
)

Words = NDArray[np.unsignedinteger[Any]]
Ranges = NDArray[np.float64]
"""Largest magnitude of each tensor, float64 (m,)."""
NO_RANGES: Ranges = np.empty(0)


class Encoded(Protocol):
    """One silo's vector on its way into the ring."""

    nonfinite: int
    """Values without words, not finite or too large, met so far."""
    clipped: int
    """Values beyond their range, met so far."""

    def begin(self) -> None:
        """All blocks will be written, perhaps once more: forget what was met of them."""

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """Write a block's words, masked, over `out`: the same words whenever and wherever it is cut."""

    def errors(self) -> NDArray[np.float64]:
        """Relative L2 error of each tensor, float64 (m,), once all blocks were written; empty if exact."""


class NumberFormat(Protocol):
    """How one vector lies in the ring. Positions are those of the whole wire: any block can be made alone."""

    width: int
    """Words a value."""
    ranges: int
    """How many ranges silos agree on before each sum."""
    largest: float
    """Weighed magnitudes from here on have no words; infinity where a range is agreed on."""
    dtype: np.dtype[Any] | None
    """Type of decoded values; None: the vectors' own."""

    def encode(self, values: Any, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """Prepare one silo's values (d,), weighed, by ranges float64 (`ranges`,)."""

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Any
    ) -> None:
        """Write a block's sum, less its masks and divided by the sum of `Weight.factor`, over `out`."""


@dataclass(frozen=True)
class Weight:
    """What one silo's values are multiplied by.

    Attributes:
        factor: above 0.
        part: of all silos' capacity, 0 to 1: those of all silos add up to 1. `factor` over `part` is what
            magnitudes are multiplied by before ranges are agreed on.
    """

    factor: float
    part: float


class Scaled:
    """Fixed point of one word a value: |x| <= range, a power of two for each tensor that silos agree on.

    No sum over `silos` can wrap, whatever the weights: `crypto.capacity`.
    """

    width, largest = 1, math.inf
    dtype: np.dtype[Any] | None = None

    def __init__(self, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> None:
        self.ranges = len(spec.tensor_ends)
        self._ends, self._stochastic = spec.tensor_ends, stochastic
        self._unit = check_capacity(bits, 1.0, silos, stochastic=stochastic)
        """Ring units at the end of the range, of all silos together."""

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`."""
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
        """See `NumberFormat`; `out` of the vector's type."""
        steps = self.steps(ranges) / total
        reduce_rows_dequantize(
            [masked], out, steps=steps, ends=self._ends, first=block.first, masks=masks, offset=block.start
        )


class _EncodedScaled:
    """Values that become words block by block, with their rounding errors added up."""

    def __init__(self, values: Vector, segments: Segments, rounding: Stream | None) -> None:
        self._values, self._segments, self._rounding = values, segments, rounding
        self.begin()

    def begin(self) -> None:
        """See `Encoded`."""
        self._squares = np.zeros((len(self._segments), 2))
        self.nonfinite = self.clipped = 0

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """See `Encoded`."""
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


class Exact:
    """Wide fixed point of several words a value: sums lose nothing, from 2^-96 up to 2^128.

    A sum shows all its bits: where one silo's magnitudes are far below the others', their bits lie apart.
    """

    ranges, largest = 0, MAGNITUDE
    dtype: np.dtype[Any] | None = None

    def __init__(self, bits: RingBits, silos: int) -> None:
        self._format, self._words = exact_format(bits, silos), ring_dtype(bits)
        self.width = self._format.words

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; d `width` words are made at once."""
        words = np.empty(len(values) * self.width, self._words)
        return _EncodedWords(words, self._format.encode(values, words, weight=weight.factor))

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Vector
    ) -> None:
        """See `NumberFormat`; a block begins and ends between values."""
        words = np.empty(block.stop - block.start, self._words)
        reduce_rows([masked], words, masks=masks, offset=block.start)
        values = np.empty(block.last - block.first)
        self._format.decode(words, values)
        np.divide(values, total, out=out, casting="same_kind")


class PlainWords:
    """Ring integers that were encoded before, such as values on the grid of a noise mechanism."""

    width, ranges, largest = 1, 0, math.inf

    def __init__(self, bits: RingBits) -> None:
        self.dtype: np.dtype[Any] | None = ring_dtype(bits)

    def encode(self, values: Words, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; they are added up as they are."""
        return _EncodedWords(values)

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Words
    ) -> None:
        """See `NumberFormat`: the sum itself, whatever `total`."""
        reduce_rows([masked], out, masks=masks, offset=block.start)


@dataclass
class _EncodedWords:
    """Words that lie in memory."""

    words: Words
    nonfinite: int = 0
    clipped: int = 0

    def begin(self) -> None:
        """See `Encoded`; nothing is met while words are written."""

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """See `Encoded`."""
        out[:] = self.words[block.word : block.word + len(out)]
        if len(masks):
            add_masks(out, masks, offset=block.start)

    def errors(self) -> NDArray[np.float64]:
        """See `Encoded`."""
        return np.empty(0)


def format_of(spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> NumberFormat:
    """The format that a vector's spec names. ConfigError where so many silos do not fit the ring."""
    if spec.format == "exact":
        return Exact(bits, silos)
    return PlainWords(bits) if spec.format == "words" else Scaled(spec, bits, silos, stochastic=stochastic)
