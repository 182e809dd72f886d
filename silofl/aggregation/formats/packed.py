"""Fixed point of less than a word a value: several numbers of few bits in each word of the ring."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats.base import Encoded, EncodedWords, Ranges, Weight
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.crypto.capacity import check_capacity, word_limit
from silofl.errors import ConfigError
from silofl.types import RingBits, Vector, Words
from silofl_kernels import (
    MaskSet,
    Segments,
    Stream,
    dequantize,
    fields_per_word,
    pack_fields,
    quantize_and_mask,
    reduce_rows,
    ring_dtype,
    unpack_fields,
)

PIECE = 1 << 16
"""Values that are encoded or decoded at a time, few enough for a cache; whole words of any ring."""
SPREAD = 2.0
"""Root mean squares that a tensor's range holds at least, where what is beyond goes on to later rounds."""
FINE = 4.0
"""Levels of a silo for each root mean square at which the range is wider: rounding loses little then."""
HALF_LEVEL = 0.5
"""Of less rounding to nearest makes zeros."""
UNMASKED = MaskSet("aes-128-ctr", [], [])


@final
class Packed:
    """Fixed point of `VectorSpec.bits` a value, with an agreed range for each tensor, as `Scaled` has it.

    A word has as many fields as fit (`silofl_kernels.fields`), and the sum of all silos' words is masked,
    added up and unmasked like any other: the field of a sum over `silos` never leaves its bits, whatever the
    weights. Rounding is stochastic, which is unbiased and needs a range that holds all values; or, where what
    it loses stays with the silo for its next round (`VectorSpec.keeps_error`), to nearest.
    """

    lossless: ClassVar[bool] = False
    in_words: ClassVar[bool] = False
    largest, resolution = math.inf, 0.0
    dtype: np.dtype[Any] | None = None

    def __init__(self, spec: VectorSpec, ring: RingBits, silos: int) -> None:
        bits = ring if spec.bits is None else spec.bits
        if bits > ring:
            raise ConfigError(
                f"compress.bits = {bits} is more than secure.bits = {ring}, the ring's: lower the first"
            )
        self._bits, self._ring = bits, ring
        self.width = Fraction(1, fields_per_word(ring, bits))
        self.ranges = len(spec.tensor_ends)
        self._ends, self._stochastic, self._keeps = spec.tensor_ends, not spec.keeps_error, spec.keeps_error
        # To nearest, fewer levels would do for the sum; but then words of silos of 1/n each are all zeros.
        stochastic = check_capacity(bits, 1.0, silos, stochastic=True, key="compress.bits")
        nearest = check_capacity(bits, 1.0, silos, key="compress.bits") - spec.small / 2  # a whole level each
        self._unit = nearest if self._keeps else stochastic
        self.spread = max(SPREAD, self._unit / silos / FINE)
        """How many root mean squares a range holds, where what is beyond it goes on to later rounds."""

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """See `NumberFormat`; rounding is what the vector's spec wants."""
        return cls(spec, bits, silos)

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; all words are made at once, for a word has several values."""
        limit = max(1, word_limit(weight.part, 1.0, self._unit, stochastic=self._stochastic))
        scales = weight.factor * self._unit / ranges
        segments = Segments(self._ends, scales, np.full(self.ranges, limit, np.int64))
        silent = self.silent(weight.part)
        return _EncodedPacked(values, segments, rounding if self._stochastic else None, self, silent)

    def silent(self, part: float) -> bool:
        """Whether a silo of that part of all weights tells nothing of what rounding takes.

        To nearest that is nearly all wherever a range is less than half a level: it would tell who is small.
        """
        return self._keeps and self.levels(part) < HALF_LEVEL

    def levels(self, part: float) -> float:
        """How many levels a range has for a silo of that part of all weights."""
        return part * self._unit

    def pack(
        self,
        values: Vector,
        segments: Segments,
        rounding: Stream | None,
        squares: NDArray[np.float64],
        residual: Vector | None,
    ) -> tuple[Words, int]:
        """This silo's words of all values, and how many were not finite; what they lose over `residual`."""
        fields, ring = self.width.denominator, ring_dtype(self._ring)
        words, numbers = np.empty(-(-len(values) // fields), ring), np.empty(PIECE, ring)
        with np.errstate(divide="ignore"):
            steps = np.where(segments.scales > 0, 1 / segments.scales, 0.0)
        nonfinite = 0
        for first in range(0, len(values), PIECE):
            piece = values[first : first + PIECE]
            whole = numbers[: len(piece)]
            met = quantize_and_mask(
                piece,
                whole,
                segments=segments,
                first=first,
                masks=UNMASKED,
                offset=0,
                rounding=rounding,
                error=squares,
            )
            nonfinite += met.nonfinite
            if residual is not None:
                left = residual[first : first + PIECE]
                dequantize(whole, left, steps=steps, ends=self._ends, first=first)
                np.subtract(piece, left, out=left)
            start = first // fields
            pack_fields(whole, words[start : start - (-len(piece) // fields)], self._bits)
        return words, nonfinite

    @property
    def keeps_error(self) -> bool:
        """Whether what rounding loses is wanted."""
        return self._keeps

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Vector
    ) -> None:
        """See `NumberFormat`; a block begins and ends between words."""
        steps, fields = ranges / self._unit / total, self.width.denominator
        words = np.empty(-(-PIECE // fields), masked.dtype)
        numbers = np.empty(PIECE, masked.dtype)
        for first in range(0, len(out), PIECE):
            part, start = out[first : first + PIECE], first // fields
            count = -(-len(part) // fields)
            here = masked[start : start + count]
            if masks is not UNMASKED:
                reduce_rows([here], words[:count], masks=masks, offset=block.start + start)
                here = words[:count]
            unpack_fields(here, numbers[: len(part)], self._bits)
            dequantize(numbers[: len(part)], part, steps=steps, ends=self._ends, first=block.first + first)


class _EncodedPacked(EncodedWords):
    """Words of a vector, with the errors of its tensors and what rounding has left of it."""

    def __init__(
        self, values: Vector, segments: Segments, rounding: Stream | None, form: Packed, silent: bool
    ) -> None:
        self._squares, self._silent = np.zeros((len(segments), 2)), silent
        residual = np.empty_like(values) if form.keeps_error else None
        words, nonfinite = form.pack(values, segments, rounding, self._squares, residual)
        super().__init__(words, nonfinite, residual=residual)

    def errors(self) -> NDArray[np.float64]:
        """See `Encoded`: root of the squared errors over the squared values; 0 where they are not told."""
        error, size = self._squares.T
        found = np.sqrt(np.divide(error, size, out=np.zeros_like(error), where=size > 0))
        return np.zeros_like(found) if self._silent else found
