"""One silo's contribution as masked words, written piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.formats.base import NO_RANGES, Encoded, Words
from silofl.aggregation.layout import Layout
from silofl.aggregation.tail import OwnTail, TailFormat
from silofl.types import Contribution
from silofl_kernels import MaskSet


@dataclass
class EncodedContribution:
    """One silo's contribution, ready to be written to the wire piece by piece, as often as ranks fail.

    Masks go onto the same words each time. So the tail, which tells how the vectors were encoded, is made
    once and stays: rounding errors are added up in another order when slices are cut otherwise.
    """

    layout: Layout
    format_of_tail: TailFormat
    contribution: Contribution
    share: float
    """This silo's part of all samples."""
    parts: Mapping[str, Encoded]
    unfit: Mapping[str, NDArray[np.bool_]]
    """By vector: tensors with values that have no words, as far as it is known beforehand."""
    far: NDArray[np.bool_]
    """By rounded tensor: whether all values are far below its range."""
    widest: NDArray[np.bool_]
    """By rounded tensor: whether these values ask for all of its range."""
    absent: bool = False
    """Whether it is nothing, of no weight."""
    _tail: Words | None = field(default=None, init=False)

    def begin(self) -> None:
        """All words will be written, perhaps once more."""
        for part in self.parts.values():
            part.begin()

    def fill(self, first: int, last: int, out: Words, masks: MaskSet) -> None:
        """Write masked wire words [first, last) over `out`."""
        for block in self.layout.within(first, last):
            self.parts[block.name].write(block, out[block.start - first : block.stop - first], masks)

    def tail(self) -> Words:
        """What rides along with the vectors, the same each time; call it when all words were written."""
        if self._tail is None:
            self._tail = self.format_of_tail.encode(self._own_tail())
        return self._tail

    def _own_tail(self) -> OwnTail:
        given, parts = self.contribution, self.parts.values()
        unfit = [
            flags if flags.any() else flags | (self.parts[name].nonfinite > 0)
            for name, flags in self.unfit.items()
        ]
        if self.absent:
            return self._nothing(unfit)
        scalars = [self.share * given.scalars[name] for name in self.format_of_tail.scalars]
        return OwnTail(
            self.share,
            any(part.clipped for part in parts),
            np.concatenate([np.empty(0, np.bool_), *unfit]),
            np.concatenate([NO_RANGES, *(part.errors() for part in parts)]),
            self.far,
            np.array([given.weight, *scalars], np.float64),
        )

    def _nothing(self, unfit: list[NDArray[np.bool_]]) -> OwnTail:
        """The tail of a silo that brings nothing: no rounding to tell of, and no weight."""
        errors = [np.zeros(len(part.errors())) for part in self.parts.values()]
        return OwnTail(
            0.0,
            clipped=False,
            bad=np.concatenate([np.empty(0, np.bool_), *unfit]),
            errors=np.concatenate([NO_RANGES, *errors]),
            far=np.zeros_like(self.far),
            numbers=np.zeros(1 + len(self.format_of_tail.scalars)),
            absent=True,
        )
