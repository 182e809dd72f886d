"""Messages between pairs of ranks: each rank sends and receives what it has to, all at a time."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from silofl.comm import chunks
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import Messages

ABANDONED_S = 1.0
"""How long messages that a failure has ended may go on touching memory before it is left to them."""
_abandoned: list[Any] = []
"""Such messages, with their arrays: MPI may write into these until the process ends."""


class Exchange:
    """One rank's messages of one call, in pieces of at most `chunk` bytes."""

    def __init__(self, mpi: Any, chunk: int) -> None:
        self._mpi, self._chunk = mpi, chunk
        self._requests: list[Any] = []
        self._arrays: list[Messages] = []

    def post(self, comm: Any, sends: Messages, receives: Messages) -> None:
        """Begin them over an mpi4py communicator."""
        self._arrays = [sends, receives]
        for start, messages in ((comm.Irecv, receives), (comm.Isend, sends)):
            for array, rank in messages:
                for piece in chunks.split(chunks.as_bytes(array), self._chunk):
                    self._requests.append(start([piece, piece.size, self._mpi.BYTE], rank))

    def wait(self, *, backoff: bool) -> None:
        """Return when all are through."""
        if backoff:
            wait_with_backoff(self._requests)
        else:
            self._mpi.Request.Waitall(self._requests)

    def abandon(self) -> None:
        """Have them end, on a communicator that was revoked: the memory that they write is used again."""
        deadline, left = time.monotonic() + ABANDONED_S, []
        for request in self._requests:
            with suppress(self._mpi.Exception):
                if not wait_with_backoff([request], max(deadline - time.monotonic(), 0.0)):
                    left.append(request)
        if left:
            _abandoned.append((left, self._arrays))
