"""The sum in the clear: rank k sees every silo's slice k. For comparison and for trusted settings."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.exchange import open_exchange
from silofl.aggregation.shards import slice_bounds
from silofl.comm.protocol import Communicator
from silofl.types import Update
from silofl_kernels import fold_float, scale_into

PIECE = 1 << 16
"""Values of each slice that move at a time: buffers stay in cache and extra memory stays small."""


class PlainAggregator:
    """Weighted mean by an all-to-all of slices and a sum in rank order.

    The order of additions is fixed and accumulates in float64, so the bits depend neither on the MPI
    library nor on how many ranks share a node.
    """

    description = "plain (every rank sees a slice of every update)"
    in_the_clear = True
    clipped_silos = 0

    def __init__(
        self,
        comm: Communicator,
        size: int,
        dtype: np.dtype[np.floating[Any]],
        *,
        weight: int,
        piece: int = PIECE,
    ) -> None:
        self._comm, self._rank = comm, comm.rank
        self.bounds = slice_bounds(size, comm.size)
        self._share = weight / int(comm.allreduce(np.array([weight], np.int64))[0])
        self._width = min(piece, self.bounds[1])
        self._exchange = open_exchange(comm, self._width, dtype)
        own = self.bounds[comm.rank + 1] - self.bounds[comm.rank]
        self.bytes_sent_per_round = dtype.itemsize * (size - own)

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def mean_slice(self, update: Update, round_number: int) -> NDArray[np.floating[Any]]:
        """See `Aggregator`; the round does not matter here."""
        mine = np.empty(self.bounds[self._rank + 1] - self.bounds[self._rank], update.dtype)
        for start in range(0, self.bounds[1], self._width):
            self._fill(update, start)
            rows = self._exchange.swap()
            part = mine[start : start + self._width]
            fold_float([row[: len(part)] for row in rows], part)
        return mine

    def _fill(self, update: Update, start: int) -> None:
        """Row j: this silo's share of slice j from `start` on; the tail of a short row stays unused."""
        for row, (begin, end) in zip(self._exchange.outgoing(), pairwise(self.bounds), strict=True):
            first, last = min(begin + start, end), min(begin + start + self._width, end)
            scale_into(update[first:last], self._share, row[: last - first])

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._comm.allreduce(values)

    def close(self) -> None:
        """Release the buffers; collective."""
        self._exchange.close()
