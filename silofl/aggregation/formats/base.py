"""What a number format is."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.layout import Block
from silofl.aggregation.spec import VectorSpec
from silofl.types import RingBits, Vector, Words
from silofl_kernels import MaskSet, Stream, add_masks

Ranges = NDArray[np.float64]
"""Largest magnitude of each tensor, float64 (m,)."""
NO_RANGES: Ranges = np.empty(0)


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


class Encoded(Protocol):
    """One silo's vector on its way into the ring."""

    nonfinite: int
    """Values without words, not finite or too large, met so far."""
    clipped: int
    """Values beyond their range, met so far."""
    residual: Vector | None
    """What words do not hold of the values (d,); None where that is not kept."""

    def begin(self) -> None:
        """All blocks will be written, perhaps once more: forget what was met of them."""

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """Write a block's words, masked, over `out`: the same words whenever and wherever it is cut."""

    def errors(self) -> NDArray[np.float64]:
        """Relative L2 error of each tensor, float64 (m,), once all blocks were written; empty if exact."""


class NumberFormat(Protocol):
    """How one vector lies in the ring. Positions are those of the whole wire: any block can be made alone."""

    lossless: ClassVar[bool]
    """Whether sums lose nothing: values are added up as they are, not as parts of a mean."""
    in_words: ClassVar[bool]
    """Whether values are ring words already: nothing of them is measured, rounded or weighed."""
    width: Fraction
    """Words a value."""
    ranges: int
    """How many ranges silos agree on before each sum."""
    largest: float
    """Weighed magnitudes from here on have no words; infinity where a range is agreed on."""
    resolution: float
    """What weighed values are rounded to multiples of; 0 where that is no fixed number."""
    dtype: np.dtype[Any] | None
    """Type of decoded values; None: the vectors' own."""

    @classmethod
    def of(cls, spec: VectorSpec, bits: RingBits, silos: int, *, stochastic: bool) -> Self:
        """The format of one vector. ConfigError where so many silos do not fit the ring."""

    def encode(self, values: Any, weight: Weight, ranges: Ranges, rounding: Stream | None) -> Encoded:
        """Prepare one silo's values (d,), weighed, by ranges float64 (`ranges`,)."""

    def decode(
        self, block: Block, masked: Words, masks: MaskSet, ranges: Ranges, total: float, out: Any
    ) -> None:
        """Write a block's sum, less its masks and divided by the sum of `Weight.factor`, over `out`."""


PRIVATE_WORDS = 1 << 15
"""Words that are masked at a time in a rank's own memory: few enough for the cache."""


@dataclass
class EncodedWords:
    """`Encoded`: words that lie in memory."""

    words: Words
    nonfinite: int = 0
    clipped: int = 0
    residual: Vector | None = None

    def begin(self) -> None:
        """See `Encoded`; nothing is met while words are written."""

    def write(self, block: Block, out: Words, masks: MaskSet) -> None:
        """See `Encoded`."""
        words = self.words[block.word : block.word + len(out)]
        private = np.empty(min(PRIVATE_WORDS, len(out)), out.dtype)  # other ranks may read `out` at any time
        for start in range(0, len(out), PRIVATE_WORDS):
            stop = min(start + PRIVATE_WORDS, len(out))
            masked = private[: stop - start]
            masked[:] = words[start:stop]
            add_masks(masked, masks, offset=block.start + start)
            out[start:stop] = masked

    def errors(self) -> NDArray[np.float64]:
        """See `Encoded`."""
        return np.empty(0)
