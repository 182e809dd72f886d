"""How chunks of vectors change hands: rows out, rows in, by messages or through memory that ranks share.

Ranks of one node exchange through a shared window, which saves both copies of a message. Elsewhere, or where
no memory can be shared, they send. Either way a caller fills `outgoing`, then calls `alltoall` or
`allgather`, and reads what those return until the next-but-one call.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.comm.protocol import Communicator, SharedBuffer

Row = NDArray[Any]
BUFFERS = 2
"""While one is read by others, the next is filled: one fence a chunk instead of two."""


class Exchange(Protocol):
    """Rows between n ranks, and one result of each; `alltoall` and `allgather` are collective."""

    allgather_width: int
    """Most values that one `allgather` takes."""
    result: NDArray[Any]
    """This rank's result, for the caller to fill."""

    def outgoing(self) -> NDArray[Any]:
        """(n, width) to fill: row j is for rank j, or the whole for `allgather`. Another after every call."""

    def alltoall(self) -> list[Row]:
        """Give the filled rows away; what every rank had for this one: n rows (width,), not to be written."""

    def allgather(self, count: int) -> list[Row]:
        """Give everybody the first `count` filled values; every rank's: n rows (count,), for reading."""

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """Another rank's result, even when it is lost; None where only that rank can read it."""

    def close(self) -> None:
        """Release the buffers."""


def open_exchange(comm: Communicator, width: int, length: int, dtype: np.dtype[Any]) -> Exchange:
    """The fastest exchange that these ranks have; collective.

    `width` values a row; `length` values of this rank's result, which may differ from rank to rank.
    """
    rows = BUFFERS * comm.size * width
    shared = comm.shared_buffer((rows + length) * dtype.itemsize)
    if shared is None:
        return MessageExchange(comm, width, length, dtype)
    return WindowExchange(comm, shared, width, dtype)


class MessageExchange:
    """Rows as messages: an Alltoall for `alltoall`, an Allgather for `allgather`."""

    def __init__(self, comm: Communicator, width: int, length: int, dtype: np.dtype[Any]) -> None:
        self._comm, self.allgather_width = comm, width
        self._send = np.zeros((comm.size, width), dtype)
        self._receive = np.zeros((BUFFERS, comm.size, width), dtype)
        self.result = np.empty(length, dtype)
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        return self._send

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        receive = self._next()
        self._comm.alltoall(self._send, receive)
        return list(receive)

    def allgather(self, count: int) -> list[Row]:
        """See `Exchange`."""
        receive = self._next().reshape(-1)[: count * self._comm.size]
        self._comm.allgather(self._send.reshape(-1)[:count], receive, [count] * self._comm.size)
        return list(receive.reshape(self._comm.size, count))

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
        self._shared, self._rank = shared, comm.rank
        self.allgather_width = comm.size * width
        shape = (BUFFERS, comm.size, width)
        rows = BUFFERS * comm.size * width
        words = [segment.view(dtype) for segment in shared.segments]
        self._buffers = [one[:rows].reshape(shape) for one in words]
        self._results = [one[rows:] for one in words]
        self.result = self._results[comm.rank]
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        filled: NDArray[Any] = self._buffers[self._rank][self._turn]
        return filled

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        turn = self._fence()
        return [buffer[turn, self._rank] for buffer in self._buffers]

    def allgather(self, count: int) -> list[Row]:
        """See `Exchange`."""
        turn = self._fence()
        return [buffer[turn].reshape(-1)[:count] for buffer in self._buffers]

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        return self._results[rank]

    def close(self) -> None:
        """See `Exchange`."""
        self._buffers, self._results = [], []
        self._shared.free()

    def _fence(self) -> int:
        """Others may read what was filled; what they read before is free to be filled again."""
        self._shared.sync()
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        return turn
