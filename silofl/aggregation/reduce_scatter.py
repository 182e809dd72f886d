"""The data path of every sum: a chunked reduce-scatter, by messages or through memory that ranks share.

Every rank hands row k to the rank that serves slice k, which adds the rows up; neighbours keep copies. Ranks
of one node exchange rows through shared memory, which saves both copies of a message; elsewhere, or where no
memory can be shared, by MPI_Alltoall. A sum that was collected is there until it is used: when a server is
lost, the rank that takes its slices over has them. Sums that are kept elsewhere are of no use to a reader as
long as their masks are on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.failure_marks import Deferred, ranks_text
from silofl.aggregation.kept_sums import KeptSums
from silofl.aggregation.shards import ALIGNMENT, Shards
from silofl.comm.protocol import Communicator, SharedBuffer
from silofl.errors import SiloflError

Row = NDArray[Any]
BUFFERS = 2
"""While one is read by others, the next is filled: one fence a chunk instead of two."""
CHUNK_BYTES = 1 << 22
"""Bytes that a rank has under way at a time: enough to pay for a fence, few enough for the cache."""

Fill = Callable[[int, int, NDArray[Any]], None]
"""fill(first, last, out) writes what this silo brings to coordinates [first, last) into `out`."""
Take = Callable[[int, int, NDArray[Any]], None]
"""take(first, last, values) reads what the rank that serves coordinates [first, last) filled."""
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

    Attributes:
        sums: what was collected, until it is used.
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
        self.comm = comm
        self._offsets = shards.owned_ranges(comm.members)
        self.start, self.stop = self._offsets[comm.rank : comm.rank + 2]
        self._longest = max(end - start for start, end in pairwise(self._offsets))
        self._width = chunk_width(self._longest, comm.size, dtype, chunk)
        length = (kept or 1) * (self.stop - self.start)
        self.exchange: Exchange = open_exchange(comm, self._width, length, dtype)
        self.sums = KeptSums(comm, shards, self.exchange, kept)

    def run(self, fill: Fill, fold: Fold) -> None:
        """Collect: afterwards `sums` has this rank's part, and other ranks have copies of it. Collective.

        An error of `fill` or `fold` is raised when all chunks have changed hands: no rank waits for this one.
        """
        steps = range(0, self._longest, self._width)
        results, work = self.sums.by_row(self.exchange.result), Deferred()

        def fill_rows(start: int) -> None:
            for row, (begin, end) in zip(self.exchange.outgoing(), pairwise(self._offsets), strict=True):
                first, last = min(begin + start, end), min(begin + start + self._width, end)
                fill(first, last, row[: last - first])

        for count, start in enumerate(steps):
            work.do(self._mark, count, len(steps))
            work.do(fill_rows, start)
            rows = self.exchange.alltoall()
            part = results[..., start : start + self._width]
            work.do(fold, [row[: part.shape[-1]] for row in rows], part)
        work.finish()
        self.sums.share()  # copies to the ranks that would take over, where they share no memory

    def gather(self, fill: Fill, take: Take, error: Exception | None = None) -> None:
        """Give every rank what each fills of its own part, piece by piece. Collective; no rank failed.

        An error of `fill` or `take`, or one that this rank has from before, is raised when all pieces have
        changed hands. Pieces say which ranks have one: where this rank has none, SiloflError names those.
        """
        exchange, work, failing = self.exchange, Deferred(error), set[int]()
        for start in range(0, self._longest, exchange.allgather_width):
            count = min(exchange.allgather_width, self._longest - start)
            places = [
                (min(begin + start, end), min(begin + start + count, end))
                for begin, end in pairwise(self._offsets)
            ]
            first, last = places[self.comm.rank]
            work.do(fill, first, last, exchange.outgoing().reshape(-1)[: last - first])
            rows = exchange.allgather(count, failed=work.error is not None)
            failing.update(exchange.failing)
            for row, (begin, end) in zip(rows, places, strict=True):
                work.do(take, begin, end, row[: end - begin])
        work.finish()
        if failing:
            first = min(failing)
            raise SiloflError(
                f"{ranks_text(sorted(failing))} could not open the sum, and the error there says why",
                rank=first,
            )

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


class Exchange(Protocol):
    """Rows between n ranks, and one result of each; `alltoall` and `allgather` are collective.

    A caller fills `outgoing`, calls one of the two, and reads what it returns until the next call but one.
    """

    allgather_width: int
    """Most values that one `allgather` takes."""
    result: NDArray[Any]
    """This rank's result, for the caller to fill."""
    failing: list[int]
    """The ranks that said in the last `allgather` that they have failed."""

    def outgoing(self) -> NDArray[Any]:
        """(n, width) to fill: row j is for rank j, or the whole for `allgather`. Another after every call."""

    def alltoall(self) -> list[Row]:
        """Give the filled rows away; what every rank had for this one: n rows (width,), not to be written."""

    def allgather(self, count: int, *, failed: bool = False) -> list[Row]:
        """Give everybody the first `count` filled values; every rank's: n rows (count,), for reading.

        A rank that has `failed` fills nothing and says so.
        """

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """Another rank's result, even when it is lost; None where only that rank can read it."""

    def close(self) -> None:
        """Release the buffers."""


def open_exchange(comm: Communicator, width: int, length: int, dtype: np.dtype[Any]) -> Exchange:
    """The fastest exchange that these ranks have; collective.

    `width` values a row; `length` values of this rank's result, which may differ from rank to rank.
    """
    rows = BUFFERS * comm.size * width
    shared = comm.shared_buffer((rows + length + BUFFERS) * dtype.itemsize)
    if shared is None:
        return MessageExchange(comm, width, length, dtype)
    return WindowExchange(comm, shared, width, dtype)


class MessageExchange:
    """Rows as messages: an Alltoall for `alltoall`, an Allgather for `allgather`."""

    def __init__(self, comm: Communicator, width: int, length: int, dtype: np.dtype[Any]) -> None:
        self._comm, self.allgather_width = comm, width
        self._flat = np.zeros(comm.size * width + 1, dtype)
        self._send = self._flat[:-1].reshape(comm.size, width)
        self._receive = np.zeros((BUFFERS, comm.size * (width + 1)), dtype)
        self.result, self.failing = np.empty(length, dtype), list[int]()
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        return self._send

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        receive = self._next()[: self._send.size].reshape(self._send.shape)
        self._comm.alltoall(self._send, receive)
        return list(receive)

    def allgather(self, count: int, *, failed: bool = False) -> list[Row]:
        """See `Exchange`; behind the values goes whether this rank has failed."""
        part = self._flat[: count + 1]
        part[count] = failed
        receive = self._next()[: part.size * self._comm.size]
        self._comm.allgather(part, receive, [part.size] * self._comm.size)
        rows = receive.reshape(self._comm.size, part.size)
        self.failing = np.flatnonzero(rows[:, count]).tolist()
        return list(rows[:, :count])

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        return self.result if rank == self._comm.rank else None

    def close(self) -> None:
        """See `Exchange`; messages leave nothing behind."""

    def _next(self) -> NDArray[Any]:
        self._turn = (self._turn + 1) % BUFFERS
        receive: NDArray[Any] = self._receive[self._turn]
        return receive


class WindowExchange:
    """Rows in memory that all ranks see: filled in place, fenced, and read where they lie."""

    def __init__(self, comm: Communicator, shared: SharedBuffer, width: int, dtype: np.dtype[Any]) -> None:
        self._comm, self._shared, self._rank = comm, shared, comm.rank
        self.allgather_width = comm.size * width
        shape = (BUFFERS, comm.size, width)
        rows = BUFFERS * comm.size * width
        words = [segment.view(dtype) for segment in shared.segments]
        self._buffers = [one[:rows].reshape(shape) for one in words]
        self._results = [one[rows:-BUFFERS] for one in words]
        self._failed = [one[-BUFFERS:] for one in words]
        self.result, self.failing = self._results[comm.rank], list[int]()
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        filled: NDArray[Any] = self._buffers[self._rank][self._turn]
        return filled

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        self._comm.count_sent(self.outgoing()[1:].nbytes)
        turn = self._fence()
        return [buffer[turn, self._rank] for buffer in self._buffers]

    def allgather(self, count: int, *, failed: bool = False) -> list[Row]:
        """See `Exchange`."""
        self._comm.count_sent((count + 1) * self.result.itemsize * (len(self._buffers) - 1))
        self._failed[self._rank][self._turn] = failed
        turn = self._fence()
        self.failing = [rank for rank, one in enumerate(self._failed) if one[turn]]
        return [buffer[turn].reshape(-1)[:count] for buffer in self._buffers]

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        return self._results[rank]

    def close(self) -> None:
        """See `Exchange`."""
        self._buffers, self._results, self._failed = [], [], []
        self._shared.free()

    def _fence(self) -> int:
        """Others may read what was filled; what they read before is free to be filled again."""
        self._shared.sync()
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        return turn
