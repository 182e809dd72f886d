"""Wide fixed point of several words a value, in which nothing is lost."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar, Self, final

import numpy as np

from silofl.aggregation.exact_numbers import MAGNITUDE, RESOLUTION, exact_format
from silofl.aggregation.formats.base import Encoded, EncodedWords, Ranges, Weight
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.types import RingBits, Vector, Words
from silofl_kernels import MaskSet, Stream, reduce_rows, ring_dtype


@final
class Exact:
    """Wide fixed point of several words a value: sums lose nothing, from 2^-96 up to 2^128.

    A weighed value is rounded to a multiple of 2^-96. A tensor of which that takes more than 1 % is told: see
    `EncodingQuality.faint`.
    A sum shows all its bits: where one silo's magnitudes are far below the others', their bits lie apart.
    """

    lossless: ClassVar[bool] = True
    in_words: ClassVar[bool] = False
    ranges, largest, resolution = 0, MAGNITUDE, RESOLUTION
    dtype: np.dtype[Any] | None = None

    def __init__(self, bits: RingBits, silos: int) -> None:
        self._format, self._words = exact_format(bits, silos), ring_dtype(bits)
        self._count = self._format.words
        self.width = Fraction(self._count)

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """See `NumberFormat`; nothing is rounded."""
        return cls(bits, silos)

    def encode(self, values: Vector, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; d `width` words are made at once."""
        words = np.empty(len(values) * self._count, self._words)
        return EncodedWords(words, self._format.encode(values, words, weight=weight.factor))

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Vector
    ) -> None:
        """See `NumberFormat`; a block begins and ends between values."""
        words = np.empty(block.stop - block.start, self._words)
        reduce_rows([masked], words, masks=masks, offset=block.start)
        values = np.empty(block.last - block.first)
        self._format.decode(words, values)
        np.divide(values, total, out=out, casting="same_kind")
