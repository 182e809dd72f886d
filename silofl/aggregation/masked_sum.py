"""The data path of a masked sum: words out to the owners of slices, sums folded, masks off, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.exchange import open_exchange
from silofl.aggregation.shards import slice_bounds
from silofl.comm.protocol import Communicator
from silofl.types import MaskedSlice
from silofl_kernels import MaskSet, dequantize, fold, fold_dequantize

Words = NDArray[np.unsignedinteger[Any]]
PIECE_WORDS = 1 << 19
"""Words that a rank has under way at a time: enough to pay for a fence, few enough for the cache."""

Fill = Callable[[int, int, Words], None]
"""fill(first, last, out) writes this silo's masked words of coordinates [first, last) into `out`."""


class MaskedSum:
    """Sums vectors of `size` ring words over the ranks of `comm`, slice k on rank k; collective to make.

    Extra memory is a few pieces and one slice of words, never a multiple of the vector.
    """

    def __init__(
        self, comm: Communicator, size: int, dtype: np.dtype[Any], *, piece: int = PIECE_WORDS
    ) -> None:
        self.bounds = slice_bounds(size, comm.size)
        self._rank, self._dtype = comm.rank, dtype
        self._width = max(min(piece // comm.size, self.bounds[1]), 1)
        self._exchange = open_exchange(comm, self._width, dtype)

    @property
    def start(self) -> int:
        """Where this rank's slice begins."""
        return self.bounds[self._rank]

    def collect(self, fill: Fill) -> MaskedSlice:
        """Everybody's words, folded: this rank's slice of the masked sum. Collective."""
        mine: Words = np.empty(self.bounds[self._rank + 1] - self.start, self._dtype)
        for start in range(0, self.bounds[1], self._width):
            for row, (begin, end) in zip(self._exchange.outgoing(), pairwise(self.bounds), strict=True):
                first, last = min(begin + start, end), min(begin + start + self._width, end)
                fill(first, last, row[: last - first])
            rows = self._exchange.swap()
            part = mine[start : start + self._width]
            fold([row[: part.size] for row in rows], part)
        return MaskedSlice(mine)

    def to_floats(self, masked: MaskedSlice, left: MaskSet, step: float, out: NDArray[Any]) -> None:
        """Take the masks that are left off this rank's slice and write it as floats. Not collective."""
        fold_dequantize([masked], out, step=step, masks=left, offset=self.start)

    def spread_floats(self, masked: MaskedSlice, left: MaskSet, step: float, out: NDArray[Any]) -> None:
        """Take the masks off, give every rank all slices, and write the whole sum as floats. Collective."""
        width = self._exchange.spread_width
        for start in range(0, self.bounds[1], width):
            count = min(width, self.bounds[1] - start)
            part = masked[start : start + width]
            flat = self._exchange.outgoing().reshape(-1)
            if part.size:
                fold([part], flat[: part.size], masks=left, offset=self.start + start)
            for row, (begin, end) in zip(self._exchange.spread(count), pairwise(self.bounds), strict=True):
                first, last = min(begin + start, end), min(begin + start + width, end)
                dequantize(row[: last - first], out[first:last], step=step)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._exchange.close()
