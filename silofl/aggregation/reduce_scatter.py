"""The data path of every sum: a chunked reduce-scatter, by messages or through memory that ranks share.

Every rank hands row k to the rank that serves slice k, which adds the rows up; neighbours keep copies. Ranks
of one node exchange rows through shared memory, which saves both copies of a message; masked words are added
up on their node before they cross to another; elsewhere rows go by MPI_Alltoall (`exchanges.py`). A sum that
was collected is there until it is used: when a server is lost, the rank that takes its slices over has them.
Sums that are kept elsewhere are of no use to a reader as long as their masks are on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.exchange_choice import open_exchange
from silofl.aggregation.exchanges import Exchange, Row
from silofl.aggregation.failure_marks import Deferred, ranks_text
from silofl.aggregation.kept_sums import KeptSums
from silofl.aggregation.shards import ALIGNMENT, Shards
from silofl.comm.protocol import Communicator
from silofl.errors import SiloflError

CHUNK_BYTES = 1 << 22
"""Bytes that a rank has under way at a time: enough to pay for a fence, few enough for the cache."""
FAR_CHUNK_BYTES = 1 << 21
"""The same where words are added up before they cross to another host: the first leave sooner, and MPI, which
sends in its own calls alone, is called more often; each has a fence, too."""

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
        chunk: values that a rank has under way at a time; None: `CHUNK_BYTES`, or `FAR_CHUNK_BYTES`.
        kept: how many vectors a fold makes of each slice, (kept, k); None: one, (k,).
        adds: whether a fold adds up words in their ring: in any order, and some of them before others.

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
        adds: bool = False,
    ) -> None:
        self.comm = comm
        self._offsets = shards.owned_ranges(comm.members)
        self.start, self.stop = self._offsets[comm.rank : comm.rank + 2]
        self._longest = max(end - start for start, end in pairwise(self._offsets))
        if chunk is None and adds and comm.hosts() is not None:
            chunk = FAR_CHUNK_BYTES // dtype.itemsize
        self._width = chunk_width(self._longest, comm.size, dtype, chunk)
        length = (kept or 1) * (self.stop - self.start)
        sole = comm.members.index(shards.sole) if shards.sole in comm.members else None
        self.exchange: Exchange = open_exchange(comm, self._width, length, dtype, adds=adds, sole=sole)
        self.sums = KeptSums(comm, shards, self.exchange, kept)

    def run(self, fill: Fill, fold: Fold) -> None:
        """Collect: afterwards `sums` has this rank's part, and other ranks have copies of it. Collective.

        An error of `fill` or `fold` is raised when all chunks have changed hands: no rank waits for this one.
        """
        steps = range(0, self._longest, self._width)
        results, work = self.sums.by_row(self.exchange.result), Deferred()
        incomplete: deque[NDArray[Any]] = deque()

        def fill_rows(start: int) -> None:
            for row, (begin, end) in zip(self.exchange.outgoing(), pairwise(self._offsets), strict=True):
                first, last = min(begin + start, end), min(begin + start + self._width, end)
                fill(first, last, row[: last - first])
                self.exchange.progress()

        def complete() -> None:
            part, rows = incomplete.popleft(), self.exchange.arrived()
            if rows:
                work.do(fold, [part, *(row[: part.shape[-1]] for row in rows)], part)

        for count, start in enumerate(steps):
            work.do(self._mark, count, len(steps))
            work.do(fill_rows, start)
            rows = self.exchange.alltoall()
            part = results[..., start : start + self._width]
            work.do(fold, [row[: part.shape[-1]] for row in rows], part)
            incomplete.append(part)
            if len(incomplete) > self.exchange.ahead:
                complete()
        while incomplete:
            complete()
        work.finish()
        self.sums.share()  # copies to the ranks that would take over, where they share no memory

    def gather(self, fill: Fill, take: Take, error: Exception | None = None) -> None:
        """Give every rank what each fills of its own part, piece by piece. Collective; no rank failed.

        An error of `fill` or `take`, or one that this rank has from before, is raised when all pieces have
        changed hands. Pieces say which ranks have one: where this rank has none, SiloflError names those.
        """
        exchange, work, failing = self.exchange, Deferred(error), set[int]()
        given: deque[list[tuple[int, int]]] = deque()

        def take_given() -> None:
            places, rows = given.popleft(), exchange.given()
            failing.update(exchange.failing)
            for row, (first, last) in zip(rows, places, strict=True):
                work.do(take, first, last, row[: last - first])
                exchange.progress()

        for start in range(0, self._longest, exchange.allgather_width):
            count = min(exchange.allgather_width, self._longest - start)
            places = [
                (min(begin + start, end), min(begin + start + count, end))
                for begin, end in pairwise(self._offsets)
            ]
            first, last = places[self.comm.rank]
            work.do(fill, first, last, exchange.outgoing().reshape(-1)[: last - first])
            exchange.give(count, failed=work.error is not None)
            given.append(places)
            if len(given) > exchange.ahead:
                take_given()
        while given:
            take_given()
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
