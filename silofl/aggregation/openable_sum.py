"""A sum that is still masked, with what opens it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from silofl.aggregation.formats.base import Ranges
from silofl.aggregation.layout import Block
from silofl.aggregation.reduce_scatter import ReduceScatter
from silofl.aggregation.tail import Tail
from silofl.aggregation.wire_format import WireFormat
from silofl.types import Vector, Words
from silofl_kernels import MaskSet, dequantize, reduce_rows, ring_dtype


@dataclass(frozen=True)
class OpenableSum:
    """A sum that is still masked, slice by slice, with what opens it.

    Slices are unmasked as they are read. That is not collective, but for `gather`.
    """

    wire: WireFormat
    collection: ReduceScatter
    left: MaskSet
    """What to add to the masked sum to have the plain one."""
    ranges: Mapping[str, Ranges]
    tail: Tail
    silos: tuple[int, ...]
    """Numbers of the silos in the sum."""
    residuals: Mapping[str, Vector]
    """By vector: what rounding took of this silo's values (d,), where that is kept."""
    row: int | None = None
    """Which of the sums that were collected it is; None where there is one."""

    def words(self, index: int, name: str) -> Words:
        """The unmasked sum of one vector's part of a slice, as `block` decodes it."""
        parts = [block for block in self.wire.layout.blocks(index) if block.name == name]  # one, or none
        found = np.empty(sum(block.stop - block.start for block in parts), ring_dtype(self.wire.bits))
        for block in parts:
            reduce_rows([self._masked(index, block)], found, masks=self.left, offset=block.start)
        return found

    def _masked(self, index: int, block: Block) -> Words:
        start = self.wire.layout.shards.bounds[index]
        sums = self.collection.sums.of(index)
        kept = sums if self.row is None else sums[self.row]
        return kept[block.start - start : block.stop - start]

    def block(self, index: int, name: str) -> Vector:
        """The mean of one vector's part of a slice that this rank serves or keeps a replica of."""
        block = next(one for one in self.wire.layout.blocks(index) if one.name == name)
        masked = self._masked(index, block)
        total = self.wire.total_weight(name, self.tail, len(self.silos))
        mean: Vector = self.wire.decode(block, masked, self.left, self.ranges, total)
        return mean

    def gather(self, factor: float, name: str, out: Vector) -> None:
        """Write `factor` times the mean of the sum's only vector, of one range, to `out` on every rank.

        Collective, over ranks of which none failed.
        """
        total = self.wire.total_weight(name, self.tail, len(self.silos))
        step = factor * self.wire.step(name, self.ranges) / total
        bounds, rank = self.wire.layout.shards.bounds, self.collection.comm.rank
        masked = self.collection.sums.of(rank)

        def fill(first: int, last: int, piece: Words) -> None:
            if piece.size:
                part = masked[first - bounds[rank] : last - bounds[rank]]
                reduce_rows([part], piece, masks=self.left, offset=first)

        self.collection.gather(fill, lambda first, last, row: dequantize(row, out[first:last], step=step))
