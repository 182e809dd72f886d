"""Fixed point of one word a value, with a range of its own for each tensor."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats.base import Encoded, Ranges, Weight, Words
from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.crypto.capacity import check_capacity, word_limit
from silofl.types import RingBits, Vector
from silofl_kernels import MaskSet, Segments, Stream, quantize_and_mask, reduce_rows_dequantize


@final
class Scaled:
    """Fixed point of one word a value: |x| <= range, a power of two for each tensor that silos agree on.

    No sum over `silos` can wrap, whatever the weights: `crypto.capacity`.
    """

    lossless: ClassVar[bool] = False
    encoded: ClassVar[bool] = False
    width, largest = 1, math.inf
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
