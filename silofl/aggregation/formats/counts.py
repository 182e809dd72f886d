"""Ones and zeros, counted exactly: several counts in each word of the ring."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar, Self, final

import numpy as np

from silofl.aggregation.formats.base import Encoded, EncodedWords, Ranges, Weight
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.errors import ConfigError
from silofl.types import RingBits, Vector, Words
from silofl_kernels import (
    FIELD_BITS,
    MaskSet,
    Stream,
    fields_per_word,
    pack_fields,
    reduce_rows,
    ring_dtype,
    unpack_fields,
)


@final
class Counts:
    """How many silos have a one at each place: up to `silos`, in the fewest bits of a field that hold it.

    Counts are whole numbers from 0 on, so that a field of b bits holds 2^b - 1 of them, without a sign.
    """

    lossless: ClassVar[bool] = True
    in_words: ClassVar[bool] = False
    ranges, largest, resolution = 0, math.inf, 0.0
    dtype: np.dtype[Any] | None = None

    def __init__(self, ring: RingBits, silos: int) -> None:
        fitting = [bits for bits in FIELD_BITS if bits <= ring and silos < 1 << bits]
        if not fitting:
            raise ConfigError(
                f"counts of {silos} silos do not fit secure.bits = {ring}, which hold {(1 << ring) - 1}: use "
                "more"
            )
        self._bits, self._ring = fitting[0], ring
        self.width = Fraction(1, fields_per_word(ring, self._bits))
        places = range(0, ring, self._bits)
        self._halves = ring_dtype(ring).type(sum(1 << place + self._bits - 1 for place in places))

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """See `NumberFormat`; nothing is rounded."""
        return cls(bits, silos)

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; they count alike, whatever the weight."""
        numbers: Words = (values > 0.5).astype(ring_dtype(self._ring))
        words: Words = np.empty(-(-len(values) // self.width.denominator), numbers.dtype)
        pack_fields(numbers, words, self._bits)
        return EncodedWords(words)

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Vector
    ) -> None:
        """See `NumberFormat`; a block begins and ends between words."""
        words, numbers = np.empty_like(masked), np.empty(len(out), masked.dtype)
        reduce_rows([masked], words, masks=masks, offset=block.start)
        words -= self._halves  # fields are read with a sign
        unpack_fields(words, numbers, self._bits)
        numbers += masked.dtype.type(1 << self._bits - 1)
        np.divide(numbers, total, out=out, casting="unsafe")
