"""Messages between pairs of ranks over MPI: each rank sends and receives what it has to, all at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from silofl.comm import chunks
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import Messages

ABANDONED_S = 1.0
"""How long messages that a failure has ended may go on touching memory before it is left to them."""
_abandoned: list[Any] = []
"""Such messages, with their arrays: MPI may write into these until the process ends."""


class Exchange:
    """`Pending` messages of one rank over an mpi4py communicator.

    Args:
        comm: the communicator, which nobody frees meanwhile.
        mpi: the module mpi4py.MPI.
        peer_errors: within it errors of MPI become what the caller raises for them.
        backoff: whether to sleep while waiting.
    """

    def __init__(
        self, comm: Any, mpi: Any, peer_errors: Callable[[], AbstractContextManager[None]], *, backoff: bool
    ) -> None:
        self._comm, self._mpi, self._peer_errors, self._backoff = comm, mpi, peer_errors, backoff
        self._requests: list[Any] = []
        self._arrays: tuple[Messages, ...] = ()

    @property
    def open(self) -> bool:
        """Whether messages are under way."""
        return bool(self._requests)

    def post(self, sends: Messages, receives: Messages, chunk: int) -> None:
        """Begin, in pieces of at most `chunk` bytes."""
        self._arrays = sends, receives
        for start, messages in ((self._comm.Irecv, receives), (self._comm.Isend, sends)):
            for array, rank in messages:
                for piece in chunks.split(chunks.as_bytes(array), chunk):
                    self._requests.append(start([piece, piece.size, self._mpi.BYTE], rank))

    def wait(self) -> None:
        """See `Pending`."""
        with self._peer_errors():
            if self._backoff:
                wait_with_backoff(self._requests)
            else:
                self._mpi.Request.Waitall(self._requests)
        self._requests, self._arrays = [], ()

    def progress(self) -> None:
        """See `Pending`."""
        if self._requests:
            with self._peer_errors():
                self._mpi.Request.Testall(self._requests)

    def abandon(self) -> None:
        """Have them end, on a communicator that was revoked: the memory that they write is used again."""
        deadline, left = time.monotonic() + ABANDONED_S, []
        for request in self._requests:
            with suppress(self._mpi.Exception):
                if not wait_with_backoff([request], max(deadline - time.monotonic(), 0.0)):
                    left.append(request)
        if left:
            _abandoned.append((left, self._arrays))
        self._requests, self._arrays = [], ()
