"""Ring integers that were encoded before."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, ClassVar, Self, final

import numpy as np

from silofl.aggregation.formats.base import Encoded, EncodedWords, Ranges, Weight
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.types import RingBits, Words
from silofl_kernels import MaskSet, Stream, reduce_rows, ring_dtype


@final
class PlainWords:
    """Ring integers that were encoded before, such as values on the grid of a noise mechanism."""

    lossless: ClassVar[bool] = True
    in_words: ClassVar[bool] = True
    width, ranges, largest, resolution = Fraction(1), 0, math.inf, 0.0

    def __init__(self, bits: RingBits) -> None:
        self.dtype: np.dtype[Any] | None = ring_dtype(bits)

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """See `NumberFormat`; that sums fit is seen to where they are encoded."""
        return cls(bits)

    def encode(self, values: Words, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """See `NumberFormat`; they are added up as they are."""
        return EncodedWords(values)

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Words
    ) -> None:
        """See `NumberFormat`: the sum itself, whatever `total`."""
        reduce_rows([masked], out, masks=masks, offset=block.start)
