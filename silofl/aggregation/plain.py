"""The sum in the clear: rank k sees every silo's slice k. For comparison and for trusted settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Permit, ask
from silofl.aggregation.collecting import Collection, Fill, Fold
from silofl.aggregation.shards import Shards
from silofl.comm.crew import Crew
from silofl.types import RingVector, TotalSlice, Update
from silofl_kernels import reduce_rows, reduce_rows_float, scale_into

PIECE = 1 << 16
"""Values of each slice that move at a time: buffers stay in cache and extra memory stays small."""


class PlainAggregator:
    """Weighted mean by an all-to-all of slices and a sum in rank order.

    One aggregator adds up floats, or words, never both.

    The order of additions is fixed and accumulates in float64, so the bits depend neither on the MPI
    library nor on how many ranks share a node.
    """

    description = "plain (every rank sees a slice of every update)"
    in_the_clear = True
    recovers = True
    clipped_silos = 0
    ring = np.dtype(np.uint32)

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
        self._collection: Collection | None = None
        self._weigh()
        start, stop = self.shards.span(crew.comm.rank)
        self.bytes_sent_per_round = dtype.itemsize * (size - (stop - start))

    def _weigh(self) -> None:
        comm = self._crew.comm
        self.summed_weight = float(comm.allreduce(np.array([self._weight], np.int64))[0])

    def add_words(self, words: RingVector, permit: Permit) -> None:
        """See `WordAggregator`."""

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            row[:] = words[first:last]

        self._collect(fill, reduce_rows, self.ring)
        ask(self._crew, permit, self.participants)

    def words(self, index: int) -> TotalSlice:
        """See `WordAggregator`."""
        return TotalSlice(self._result.of(index))

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def add_up(self, update: Update, round_number: int) -> None:
        """See `Aggregator`; the round does not matter here."""

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            scale_into(update[first:last], self._weight / self.summed_weight, row)

        self._collect(fill, reduce_rows_float, self._dtype)

    def _collect(self, fill: Fill, fold: Fold, dtype: np.dtype[Any]) -> None:
        def collect() -> tuple[int, ...]:
            comm = self._crew.comm
            if self._collection is None or self._collection.comm is not comm:
                self._weigh()
                self._collection = Collection(comm, self.shards, dtype, piece=self._piece)
            self._collection.run(fill, fold)
            return self._crew.members

        self.participants = self._crew.step(collect)

    @property
    def _result(self) -> Collection:
        if self._collection is None:
            raise RuntimeError("nothing was added up")
        return self._collection

    def mean(self, index: int) -> NDArray[np.floating[Any]]:
        """See `Aggregator`."""
        mean: NDArray[np.floating[Any]] = self._result.of(index)
        return mean

    def sum_numbers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._crew.step(lambda: self._crew.comm.allreduce(values))

    def close(self) -> None:
        """Release the buffers."""
        if self._collection is not None:
            self._collection.close()
