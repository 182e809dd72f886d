"""The data path of every sum: rows out to the ranks that serve a slice, folded there, and kept in copies.

A sum that was collected is there until it is used: when a server is lost, the rank that takes its slices over
has them. Sums that are kept elsewhere are of no use to a reader as long as their masks are on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.row_exchange import Exchange, Row, open_exchange
from silofl.aggregation.shards import ALIGNMENT, Shards
from silofl.comm.protocol import Communicator
from silofl.errors import StoppedError

CHUNK_BYTES = 1 << 22
"""Bytes that a rank has under way at a time: enough to pay for a fence, few enough for the cache."""

Fill = Callable[[int, int, NDArray[Any]], None]
"""fill(first, last, out) writes what this silo brings to coordinates [first, last) into `out`."""
Fold = Callable[[list[Row], NDArray[Any]], None]
"""fold(rows, out) makes one vector (k,) of every silo's row (k,), or as many as are kept, (kept, k)."""


def chunk_width(longest: int, ranks: int, dtype: np.dtype[Any], chunk: int | None = None) -> int:
    """Values of each slice that move at a time; `longest` is the longest slice's length.

    `chunk` values of all slices together at most, `CHUNK_BYTES` when None. All chunks are of one length, for
    the last one travels as whole as the others.
    """
    most = max((chunk or CHUNK_BYTES // dtype.itemsize) // ranks, 1)
    chunks = max(-(-longest // most), 1)
    width = max(-(-longest // chunks), 1)
    return min(width + -width % ALIGNMENT, most)


class ReduceScatter:
    """Every silo's values, added up in slices, over the ranks of one communicator; collective to make.

    Extra memory is a few chunks and one slice, never a multiple of the vector, unless rows are kept.

    Args:
        comm: the ranks that are left of `shards.members`.
        shards: which rank serves which slice.
        dtype: of the values that travel.
        chunk: values that a rank has under way at a time; None: `CHUNK_BYTES`.
        kept: how many vectors a fold makes of each slice, (kept, k); None: one, (k,).
    """

    def __init__(
        self,
        comm: Communicator,
        shards: Shards,
        dtype: np.dtype[Any],
        *,
        chunk: int | None,
        kept: int | None = None,
    ) -> None:
        self.comm, self._shards, self._members = comm, shards, comm.members
        self._offsets = shards.owned_ranges(comm.members)
        self.start, self.stop = self._offsets[comm.rank : comm.rank + 2]
        self._longest = max(end - start for start, end in pairwise(self._offsets))
        self._width = chunk_width(self._longest, comm.size, dtype, chunk)
        self._kept, length = kept, (kept or 1) * (self.stop - self.start)
        self.exchange: Exchange = open_exchange(comm, self._width, length, dtype)
        self._copies: dict[int, NDArray[Any]] = {}

    def run(self, fill: Fill, fold: Fold) -> None:
        """Collect: afterwards this rank's part is in `result`, and copies of it with others. Collective."""
        steps = range(0, self._longest, self._width)
        results = self._by_row(self.exchange.result)
        for count, start in enumerate(steps):
            self._mark(count, len(steps))
            for row, (begin, end) in zip(self.exchange.outgoing(), pairwise(self._offsets), strict=True):
                first, last = min(begin + start, end), min(begin + start + self._width, end)
                fill(first, last, row[: last - first])
            rows = self.exchange.alltoall()
            part = results[..., start : start + self._width]
            fold([row[: part.shape[-1]] for row in rows], part)
        self._share_copies()

    def of(self, index: int) -> NDArray[Any]:
        """The sum of one slice (k,), or what is kept of it (kept, k): served by this rank, or copied to it.

        Raises StoppedError where neither it nor anybody else has it any more.
        """
        copy = self._copies.get(index)
        if copy is not None:
            return copy
        result = self._served(index)
        if result is None:
            raise StoppedError(
                f"the sums of slice {index} are lost with the silos that kept them, and may not be "
                "collected again from fewer; --resume repeats the round with all silos",
                rank=self.comm.rank,
            )
        return result

    def _served(self, index: int) -> NDArray[Any] | None:
        """The sum of one slice in its server's memory; None where this rank cannot read that."""
        server = self._members.index(self._shards.server(index, self._members))
        result = self.exchange.result_of(server)
        if result is None:
            return None
        first, last = self._shards.span(index)
        return self._by_row(result)[..., first - self._offsets[server] : last - self._offsets[server]]

    def hold(self) -> None:
        """Have the slices that this rank keeps replicas of in memory of its own, which no other rank writes.

        Not collective; after `run`, with another collective between them, so that all sums are complete.
        """
        silo = self._members[self.comm.rank]
        for index in range(len(self._shards.members)):
            if silo in self._shards.replicas(index) and silo != self._shards.server(index, self._members):
                shared = self._served(index)
                if shared is None:  # it came as a message
                    continue
                if index not in self._copies:
                    self._copies[index] = np.empty_like(shared)
                np.copyto(self._copies[index], shared)

    def _by_row(self, result: NDArray[Any]) -> NDArray[Any]:
        return result if self._kept is None else result.reshape(self._kept, result.size // self._kept)

    def close(self) -> None:
        """Release the buffers."""
        self.exchange.close()

    def _mark(self, count: int, chunks: int) -> None:
        """Tell which chunk is next; the only one is the first and the last."""
        if count == 0:
            self.comm.mark("collect first")
        if 0 < count < chunks - 1:
            self.comm.mark("collect middle")
        if count == chunks - 1:
            self.comm.mark("collect last")

    def _share_copies(self) -> None:
        """Where results lie in private memory, send copies to the ranks that would take over."""
        comm, shards = self.comm, self._shards
        shared = comm.size == 1 or self.exchange.result_of((comm.rank + 1) % comm.size) is not None
        if shared or not (shards.replica_count or shards.checkers):
            return
        mine = shards.slices_of(self._members[comm.rank], self._members)
        parcels = [
            b"".join(self.of(index).tobytes() for index in mine if member in shards.replicas(index))
            for member in self._members
        ]
        received = comm.alltoall_bytes(parcels)
        for member, parcel in zip(self._members, received, strict=True):
            words = np.frombuffer(parcel, self.exchange.result.dtype)
            for index in shards.slices_of(member, self._members):
                if self._members[comm.rank] in shards.replicas(index):
                    length = (self._kept or 1) * (shards.bounds[index + 1] - shards.bounds[index])
                    self._copies[index], words = self._by_row(words[:length]), words[length:]
