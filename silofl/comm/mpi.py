"""Ranks as processes: the `Communicator` over MPI, by buffer collectives on a duplicate of its own.

Arrays move as bytes, so every dtype takes one path; what is longer than `piece_bytes` is cut by `pieces`.
On a crowded node ranks wait in nonblocking collectives, because blocking ones spin: see `patience`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl.comm import binding, pieces, window
from silofl.comm.checks import check_allgather, check_alltoall, check_counts, check_reduce, is_same_memory
from silofl.comm.node import survey
from silofl.comm.patience import wait_politely
from silofl.types import ReduceOp

if TYPE_CHECKING:
    from mpi4py import MPI

PIECE_BYTES = 1 << 30
ABORT_GRACE_S = 5.0
FORWARD_S = 0.3
"""Open MPI's launcher drops what a rank printed just before it aborts."""


class MpiCommunicator:
    """See `Communicator`. Collective to make: it duplicates `comm` (COMM_WORLD if None).

    `piece_bytes` (at most 2^30) is the longest stretch that one MPI call moves between two ranks. `polite`
    ranks sleep while they wait for peers; None: where the ranks of a node leave it no core to spare.
    """

    def __init__(
        self,
        comm: MPI.Intracomm | None = None,
        *,
        piece_bytes: int = PIECE_BYTES,
        polite: bool | None = None,
    ) -> None:
        if not 1 <= piece_bytes <= PIECE_BYTES:
            raise ValueError(f"piece_bytes must lie in 1..{PIECE_BYTES}, not {piece_bytes}")
        self._mpi = binding.load()
        self._comm = (self._mpi.COMM_WORLD if comm is None else comm).Dup()
        self._rank, self._size = int(self._comm.rank), int(self._comm.size)
        self._piece = piece_bytes
        self._node = survey(self._mpi, self._comm)
        self._polite = self._node.crowded if polite is None else polite

    @property
    def rank(self) -> int:
        """This rank, 0 <= rank < size."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._size

    @property
    def local_rank(self) -> int:
        """This rank's place among the ranks of its node."""
        return self._node.rank

    @property
    def local_size(self) -> int:
        """How many ranks share this node."""
        return self._node.size

    def barrier(self) -> None:
        """Return when every rank has called."""
        self._call("Barrier")

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """Every rank's payload, in rank order."""
        lengths = np.empty(self._size, np.int64)
        self._call("Allgather", np.array([len(payload)], np.int64), lengths)
        counts: list[int] = lengths.tolist()
        receive = np.empty(sum(counts), np.uint8)
        start = pieces.starts(counts)
        if receive.size:
            receive[start[self._rank] :][: len(payload)] = np.frombuffer(payload, np.uint8)
            self._gather(receive, counts)
        return [receive[at : at + count].tobytes() for at, count in zip(start, counts, strict=True)]

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Send payloads[j] to rank j; returns what each rank sent here, in rank order."""
        if len(payloads) != self._size:
            raise ValueError(f"alltoall_bytes needs one payload a rank: {self._size}, not {len(payloads)}")
        longest = max(map(len, payloads))
        mine = np.array([[len(payload), longest] for payload in payloads], np.int64)
        theirs = np.empty_like(mine)
        self._call("Alltoall", mine, theirs)
        step = max(1, self._piece // self._size)
        rounds = [
            self._exchange(
                [payload[at : at + step] for payload in payloads], (theirs[:, 0] - at).clip(0, step)
            )
            for at in range(0, int(theirs[:, 1].max()), step)
        ]
        return [b"".join(parts) for parts in zip(*rounds, strict=True)] if rounds else [b""] * self._size

    def broadcast_bytes(self, payload: bytes, root: int = 0) -> bytes:
        """The root's payload, on every rank; what other ranks pass is ignored."""
        length = np.array([len(payload)], np.int64)
        self._call("Bcast", length, root)
        content = np.empty(int(length[0]), np.uint8)
        if self._rank == root:
            content[:] = np.frombuffer(payload, np.uint8)
        for piece in pieces.stretches(content, self._piece):
            self._call("Bcast", [piece, piece.size, self._mpi.BYTE], root)
        return content.tobytes()

    def allreduce(self, values: NDArray[Any], op: ReduceOp = "sum") -> NDArray[Any]:
        """Elementwise reduction, a new array; the order of a float sum is the library's."""
        check_reduce(values, op)
        send = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")).reshape(-1)
        total = np.empty_like(send)
        operation = {"sum": self._mpi.SUM, "min": self._mpi.MIN, "max": self._mpi.MAX}[op]
        step = max(1, self._piece // send.itemsize)
        for at in range(0, send.size, step):
            self._call("Allreduce", send[at : at + step], total[at : at + step], operation)
        return total.reshape(values.shape)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Row j of `send` goes to rank j; see `Communicator.alltoall`."""
        check_alltoall(send, receive, self._size)
        for part in pieces.windows(self._mpi, send, receive, self._piece):
            self._call("Alltoall", part.send, part.receive)
            if part.datatype is not None:
                part.datatype.Free()

    def ialltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> MpiRequest:
        """`alltoall` that returns at once."""
        check_alltoall(send, receive, self._size)
        parts = list(pieces.windows(self._mpi, send, receive, self._piece))
        requests = [self._comm.Ialltoall(part.send, part.receive) for part in parts]
        return MpiRequest(requests, parts, self._polite)

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Concatenate every rank's `send` into `receive`; see `Communicator.allgather`."""
        lengths = self._put_in_place(send, receive, counts)
        self._gather(receive, lengths)

    def iallgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> MpiRequest:
        """`allgather` that returns at once."""
        lengths = self._put_in_place(send, receive, counts)
        if sum(lengths) <= self._piece:
            requests = [self._comm.Iallgatherv(self._mpi.IN_PLACE, self._layout(receive, lengths))]
        else:
            requests = [
                self._comm.Ibcast([piece, piece.size, self._mpi.BYTE], root)
                for piece, root in pieces.segments(receive, lengths, self._piece)
            ]
        return MpiRequest(requests, [], self._polite)

    def shared_buffer(self, nbytes: int) -> window.MpiSharedBuffer | None:
        """One segment of `nbytes` zeros for each rank; None on every rank where no memory is shared."""
        lengths = np.frombuffer(b"".join(self.allgather_bytes(np.int64(nbytes).tobytes())), np.int64)
        fits = self._node.whole and window.has_room(int(lengths.sum()))
        if not self.allreduce(np.array([fits], np.int32), "min")[0]:
            return None
        return window.allocate(self._mpi, self._comm, lengths.tolist(), self.barrier)

    def duplicate(self) -> MpiCommunicator:
        """A communicator over the same ranks whose messages never meet this one's."""
        return MpiCommunicator(self._comm, piece_bytes=self._piece, polite=self._polite)

    def free(self) -> None:
        """Release it. Collective; nothing may be in flight."""
        self._comm.Free()

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank at once with this exit code, even if MPI_Abort itself hangs."""
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FORWARD_S)
        last_resort = threading.Timer(ABORT_GRACE_S, os._exit, (exit_code,))
        last_resort.daemon = True
        last_resort.start()
        self._mpi.COMM_WORLD.Abort(exit_code)
        os._exit(exit_code)

    def leave(self, timeout_s: float) -> bool:
        """Wait until every rank calls `leave`; False if some have not after `timeout_s` seconds.

        Not for a communicator that is also used for anything else. An MPI error (a dead rank) counts as True:
        there is nobody left to wait for.
        """
        try:
            return wait_politely([self._comm.Ibarrier()], timeout_s)
        except self._mpi.Exception:
            return True

    def _call(self, collective: str, *buffers: Any) -> None:
        """Run a blocking collective; on a crowded node its nonblocking twin, in which ranks can sleep."""
        if self._polite:
            wait_politely([getattr(self._comm, f"I{collective.lower()}")(*buffers)])
        else:
            getattr(self._comm, collective)(*buffers)

    def _put_in_place(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> list[int]:
        """Check an allgather, copy `send` to its place in `receive`; return the byte count of each rank."""
        check_counts(counts, self._size)
        place = check_allgather(send, receive, counts, self._rank)
        if not is_same_memory(send, place):
            place[:] = send
        return [int(count) * receive.itemsize for count in counts]

    def _gather(self, receive: NDArray[Any], lengths: list[int]) -> None:
        if sum(lengths) <= self._piece:
            self._call("Allgatherv", self._mpi.IN_PLACE, self._layout(receive, lengths))
            return
        for piece, root in pieces.segments(receive, lengths, self._piece):
            self._call("Bcast", [piece, piece.size, self._mpi.BYTE], root)

    def _layout(self, receive: NDArray[Any], lengths: list[int]) -> list[Any]:
        return [pieces.as_bytes(receive), lengths, pieces.starts(lengths), self._mpi.BYTE]

    def _exchange(self, parts: list[bytes], incoming: NDArray[np.int64]) -> list[bytes]:
        """Send parts[j] to rank j by one Alltoallv; incoming[i] bytes come from rank i."""
        outgoing, counts = list(map(len, parts)), incoming.tolist()
        send, receive = b"".join(parts), np.empty(sum(counts), np.uint8)
        byte = self._mpi.BYTE
        self._call(
            "Alltoallv",
            [send, outgoing, pieces.starts(outgoing), byte],
            [receive, counts, pieces.starts(counts), byte],
        )
        return [receive[at : at + n].tobytes() for at, n in zip(pieces.starts(counts), counts, strict=True)]


class MpiRequest:
    """A collective in flight, as one or more MPI requests."""

    def __init__(self, requests: list[Any], parts: list[pieces.Window], polite: bool) -> None:
        self._requests, self._parts, self._polite = requests, parts, polite

    def wait(self) -> None:
        """Block until the collective is complete on this rank. Later calls return at once."""
        if self._polite:
            wait_politely(self._requests)
        else:
            for request in self._requests:
                request.Wait()
        for part in self._parts:
            if part.datatype is not None:
                part.datatype.Free()
        self._requests, self._parts = [], []
