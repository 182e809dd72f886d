"""The sum in the clear: rank k sees every silo's slice k. For comparison and for trusted settings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize
from silofl.aggregation.reduce_scatter import Fill, Fold, ReduceScatter
from silofl.aggregation.shards import Shards
from silofl.comm.elastic_group import ElasticGroup
from silofl.types import RingVector, TotalSlice, Update
from silofl_kernels import fold, fold_float, scale_into

CHUNK = 1 << 16
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
        group: ElasticGroup,
        size: int,
        dtype: np.dtype[np.floating[Any]],
        *,
        weight: int,
        replica_count: int = 0,
        chunk: int = CHUNK,
    ) -> None:
        self._group, self._dtype, self._weight = group, dtype, weight
        self.shards = Shards(size, group.members, replica_count)
        self._chunk = chunk * len(group.members)
        self.participants = group.members
        self._collection: ReduceScatter | None = None
        self._weigh()
        start, stop = self.shards.span(group.comm.rank)
        self.bytes_sent_per_round = dtype.itemsize * (size - (stop - start))

    def _weigh(self) -> None:
        comm = self._group.comm
        self.summed_weight = float(comm.allreduce(np.array([self._weight], np.int64))[0])

    def reduce_words(self, words: RingVector, authorizer: Authorizer) -> None:
        """See `WordAggregator`."""

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            row[:] = words[first:last]

        self._collect(fill, fold, self.ring)
        authorize(self._group, authorizer, self.participants)

    def words(self, index: int) -> TotalSlice:
        """See `WordAggregator`."""
        return TotalSlice(self._result.of(index))

    def prepare(self) -> None:
        """See `Aggregator`; nothing is made ahead."""

    def reduce(self, update: Update, round_number: int) -> None:
        """See `Aggregator`; the round does not matter here."""

        def fill(first: int, last: int, row: NDArray[Any]) -> None:
            scale_into(update[first:last], self._weight / self.summed_weight, row)

        self._collect(fill, fold_float, self._dtype)

    def _collect(self, fill: Fill, fold: Fold, dtype: np.dtype[Any]) -> None:
        def collect() -> tuple[int, ...]:
            comm = self._group.comm
            if self._collection is None or self._collection.comm is not comm:
                self._weigh()
                self._collection = ReduceScatter(comm, self.shards, dtype, chunk=self._chunk)
            self._collection.run(fill, fold)
            return self._group.members

        self.participants = self._group.step(collect)

    @property
    def _result(self) -> ReduceScatter:
        if self._collection is None:
            raise RuntimeError("nothing was added up")
        return self._collection

    def mean(self, index: int) -> NDArray[np.floating[Any]]:
        """See `Aggregator`."""
        mean: NDArray[np.floating[Any]] = self._result.of(index)
        return mean

    def sum_scalars(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`."""
        return self._group.step(lambda: self._group.comm.allreduce(values))

    def close(self) -> None:
        """Release the buffers."""
        if self._collection is not None:
            self._collection.close()
