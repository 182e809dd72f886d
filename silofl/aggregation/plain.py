"""The sum in the clear: rank k sees every silo's slice k. For comparison and for trusted settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.collecting import Collection
from silofl.aggregation.shards import Shards
from silofl.comm.crew import Crew
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
    recovers = True
    clipped_silos = 0

    def __init__(
        self,
        crew: Crew,
        size: int,
        dtype: np.dtype[np.floating[Any]],
        *,
        weight: int,
        copies: int = 0,
        piece: int = PIECE,
    ) -> None:
        self._crew, self._dtype, self._weight = crew, dtype, weight
        self.shards = Shards(size, crew.members, copies)
        self._piece = piece * len(crew.members)
        self.participants = crew.members
        self._open()
        start, stop = self.shards.span(crew.comm.rank)
        self.bytes_sent_per_round = dtype.itemsize * (size - (stop - start))

    def _open(self) -> None:
        comm = self._crew.comm
        self._share = self._weight / int(comm.allreduce(np.array([self._weight], np.int64))[0])
        self._collection = Collection(comm, self.shards, self._dtype, piece=self._piece)

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def add_up(self, update: Update, round_number: int) -> None:
        """See `Aggregator`; the round does not matter here."""

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            scale_into(update[first:last], self._share, row)

        def collect() -> tuple[int, ...]:
            if self._collection.comm is not self._crew.comm:
                self._open()
            self._collection.run(fill, fold_float)
            return self._crew.members

        self.participants = self._crew.step(collect)

    def mean(self, index: int) -> NDArray[np.floating[Any]]:
        """See `Aggregator`."""
        mean: NDArray[np.floating[Any]] = self._collection.of(index)
        return mean

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._crew.step(lambda: self._crew.comm.allreduce(values))

    def close(self) -> None:
        """Release the buffers."""
        self._collection.close()
