"""Ranks as processes: the `Communicator` over MPI, by buffer collectives on a duplicate of its own.

Arrays move as bytes, so every dtype takes one path; what is longer than `chunk_bytes` is cut by `chunks`.
On an oversubscribed node ranks wait in nonblocking collectives, because blocking ones spin: see `patience`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl.comm import chunks, eager, mpi_library, shared_memory
from silofl.comm.argument_checks import (
    check_allgather,
    check_alltoall,
    check_counts,
    check_reduce,
    is_same_memory,
)
from silofl.comm.family import Family, Relative
from silofl.comm.node import Node, discover_node
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import RankFailedError
from silofl.launcher import watchdog
from silofl.launcher.environment import fault_tolerance_enabled
from silofl.types import ReduceOp

if TYPE_CHECKING:
    from mpi4py import MPI

CHUNK_BYTES = 1 << 30


class _Settings(NamedTuple):
    """What a communicator, its duplicates and its successors have in common."""

    mpi: Any
    chunk_bytes: int
    node: Node
    backoff: bool


class MpiCommunicator(Relative["MpiCommunicator"]):
    """See `Communicator`. Collective to make: it duplicates `comm` (COMM_WORLD if None).

    `chunk_bytes` (at most 2^30) is the longest stretch that one MPI call moves between two ranks. `backoff`
    ranks sleep while they wait for peers; None: where the ranks of a node leave it no core to spare.
    """

    def __init__(
        self,
        comm: MPI.Intracomm | None = None,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        backoff: bool | None = None,
    ) -> None:
        if not 1 <= chunk_bytes <= CHUNK_BYTES:
            raise ValueError(f"chunk_bytes must lie in 1..{CHUNK_BYTES}, not {chunk_bytes}")
        mpi = mpi_library.load()
        try:
            own = (mpi.COMM_WORLD if comm is None else comm).Dup()
            node = discover_node(mpi, own)
        except mpi.Exception as error:
            if not self.resilient:
                raise
            raise RankFailedError(f"a rank was lost before all had met: {error}") from error
        backoff = node.oversubscribed if backoff is None else backoff
        self._begin(_Settings(mpi, chunk_bytes, node, backoff), own, tuple(range(own.size)), Family())

    def _begin(
        self,
        settings: _Settings,
        comm: MPI.Intracomm,
        members: tuple[int, ...],
        family: Family[MpiCommunicator],
    ) -> None:
        self._settings, self._comm, self._members, self._family = settings, comm, members, family
        self._mpi, self._chunk, self._node, self._backoff = settings
        self._rank, self._size = int(comm.rank), int(comm.size)
        family.alive.append(self)

    def _like(
        self, comm: MPI.Intracomm, members: tuple[int, ...], family: Family[MpiCommunicator]
    ) -> MpiCommunicator:
        """A communicator over `comm` itself, with this one's settings."""
        other = object.__new__(MpiCommunicator)
        other._begin(self._settings, comm, members, family)
        return other

    @property
    def rank(self) -> int:
        """This rank, 0 <= rank < size."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._size

    @property
    def members(self) -> tuple[int, ...]:
        """By rank, ascending: the number that each had when all met."""
        return self._members

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
        payload = self._family.outgoing(payload)
        slots = eager.empty(self._size)
        self._call("Allgather", eager.slot(payload, len(payload)), slots)
        counts, short = eager.lengths(slots), eager.contents(slots)
        if short is not None:
            return short
        receive = np.empty(sum(counts), np.uint8)
        start = chunks.displacements(counts)
        if receive.size:
            receive[start[self._rank] :][: len(payload)] = np.frombuffer(payload, np.uint8)
            self._gather(receive, counts)
        return [receive[at : at + count].tobytes() for at, count in zip(start, counts, strict=True)]

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Send payloads[j] to rank j; returns what each rank sent here, in rank order."""
        if len(payloads) != self._size:
            raise ValueError(f"alltoall_bytes needs one payload a rank: {self._size}, not {len(payloads)}")
        payloads = [self._family.outgoing(payload) for payload in payloads]
        longest = max(map(len, payloads))
        slots = eager.empty(self._size)
        self._call("Alltoall", np.stack([eager.slot(payload, longest) for payload in payloads]), slots)
        short = eager.contents(slots)
        if short is not None:
            return short
        counts = np.array(eager.lengths(slots), np.int64)
        step = max(1, self._chunk // self._size)
        rounds = [
            self._exchange([payload[at : at + step] for payload in payloads], (counts - at).clip(0, step))
            for at in range(0, eager.longest(slots), step)
        ]
        return [b"".join(parts) for parts in zip(*rounds, strict=True)] if rounds else [b""] * self._size

    def broadcast_bytes(self, payload: bytes, root: int = 0) -> bytes:
        """The root's payload, on every rank; what other ranks pass is ignored."""
        length = np.array([len(payload)], np.int64)
        self._call("Bcast", length, root)
        content = np.empty(int(length[0]), np.uint8)
        if self._rank == root:
            content[:] = np.frombuffer(payload, np.uint8)
        for chunk in chunks.split(content, self._chunk):
            self._call("Bcast", [chunk, chunk.size, self._mpi.BYTE], root)
        return content.tobytes()

    def allreduce(self, values: NDArray[Any], op: ReduceOp = "sum") -> NDArray[Any]:
        """Elementwise reduction, a new array; the order of a float sum is the library's."""
        check_reduce(values, op)
        send = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")).reshape(-1)
        total = np.empty_like(send)
        operation = {"sum": self._mpi.SUM, "min": self._mpi.MIN, "max": self._mpi.MAX}[op]
        step = max(1, self._chunk // send.itemsize)
        for at in range(0, send.size, step):
            self._call("Allreduce", send[at : at + step], total[at : at + step], operation)
        return total.reshape(values.shape)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Row j of `send` goes to rank j; see `Communicator.alltoall`."""
        check_alltoall(send, receive, self._size)
        for part in chunks.alltoall_chunks(self._mpi, send, receive, self._chunk):
            self._call("Alltoall", part.send, part.receive)
            if part.datatype is not None:
                part.datatype.Free()

    def ialltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> MpiRequest:
        """`alltoall` that returns at once."""
        check_alltoall(send, receive, self._size)
        parts = list(chunks.alltoall_chunks(self._mpi, send, receive, self._chunk))
        with self._together():
            requests = [self._comm.Ialltoall(part.send, part.receive) for part in parts]
        return MpiRequest(requests, parts, self._backoff, self._together)

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Concatenate every rank's `send` into `receive`; see `Communicator.allgather`."""
        lengths = self._put_in_place(send, receive, counts)
        self._gather(receive, lengths)

    def iallgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> MpiRequest:
        """`allgather` that returns at once."""
        lengths = self._put_in_place(send, receive, counts)
        with self._together():
            if sum(lengths) <= self._chunk:
                requests = [self._comm.Iallgatherv(self._mpi.IN_PLACE, self._layout(receive, lengths))]
            else:
                requests = [
                    self._comm.Ibcast([chunk, chunk.size, self._mpi.BYTE], root)
                    for chunk, root in chunks.allgather_chunks(receive, lengths, self._chunk)
                ]
        return MpiRequest(requests, [], self._backoff, self._together)

    def shared_buffer(self, nbytes: int) -> shared_memory.MappedBuffer | None:
        """One segment of `nbytes` zeros for each rank; None on every rank where no memory is shared."""
        segment = shared_memory.MemfdSegment(nbytes)
        try:
            segments = (
                shared_memory.map_segments(self.allgather_bytes(segment.address()))
                if self._node.whole
                else None
            )
            if not self.allreduce(np.array([segments is not None], np.int32), "min")[0]:
                return None
        finally:
            segment.close()
        return shared_memory.MappedBuffer(segments or [], self.barrier)

    def duplicate(self) -> MpiCommunicator:
        """A communicator over the same ranks whose messages never meet this one's."""
        with self._together():
            other = self._comm.Dup()
        self.barrier()  # Open MPI crashes in a rank whose Dup is not over when others revoke what it makes
        return self._like(other, self._members, self._family)

    def free(self) -> None:
        """Release it. Collective; one that was given up is left to the end of the process."""
        if self in self._family.alive:
            self._family.alive.remove(self)
            with suppress(RankFailedError), self._together():
                self._comm.Free()

    @property
    def resilient(self) -> bool:
        """Whether this job was started with ULFM (`mpirun --with-ft ulfm`)."""
        return fault_tolerance_enabled(os.environ)

    @property
    def changed(self) -> bool:
        """Whether a rank of this job was lost, or came back, before this communicator was made."""
        return self._family.changed

    def recover(self) -> MpiCommunicator:
        """The ranks that are left; see `Communicator.recover`."""
        self.give_up()
        left: Any = self._comm
        members = self._members
        with watchdog.waiting():
            while True:
                wider, left = left, left.Shrink()
                places = self._mpi.Group.Translate_ranks(left.group, range(left.size), wider.group)
                members = tuple(members[place] for place in places)
                try:
                    left.Agree(1)
                except self._mpi.Exception:
                    continue  # one more was lost meanwhile, and all ranks know it
                return self._like(left, members, Family(self._family))

    def successor(self, comm: MPI.Intracomm, members: tuple[int, ...]) -> MpiCommunicator:
        """The communicator over `comm` that takes this one's place, when ranks come back. Collective."""
        merged, node = self._like(comm, members, Family(self._family)), discover_node(self._mpi, comm)
        backoff = np.array([node.oversubscribed or self._backoff], np.int32)
        comm.Allreduce(self._mpi.IN_PLACE, backoff, self._mpi.MAX)
        merged._settings = _Settings(self._mpi, self._chunk, node, bool(backoff[0]))
        merged._mpi, merged._chunk, merged._node, merged._backoff = merged._settings
        return merged

    @property
    def handle(self) -> MPI.Intracomm:
        """The MPI communicator itself, for `comm.respawn`."""
        return self._comm

    def give_up(self) -> None:
        """Let every collective of this communicator and its duplicates fail on all ranks. Not collective."""
        for one in self._family.alive:
            one._comm.Revoke()
        self._family.alive = []

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank at once with this exit code."""
        mpi_library.abort(exit_code)

    def finalize(self) -> None:
        """End MPI in this process; nothing of it can be used afterwards."""
        mpi_library.finalize()

    def final_barrier(self, timeout_s: float) -> bool:
        """Wait until every rank calls `final_barrier`; False if some have not after `timeout_s` seconds.

        Not for a communicator that is also used for anything else. An MPI error (a dead rank) counts as True:
        there is nobody left to wait for.
        """
        try:
            with watchdog.waiting():
                return wait_with_backoff([self._comm.Ibarrier()], timeout_s)
        except self._mpi.Exception:
            return True

    def _call(self, collective: str, *buffers: Any) -> None:
        """Run a blocking collective; on an oversubscribed node its nonblocking twin, in which ranks can
        sleep.
        """
        with self._together():
            if self._backoff:
                wait_with_backoff([getattr(self._comm, f"I{collective.lower()}")(*buffers)])
            else:
                getattr(self._comm, collective)(*buffers)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Wait for peers; where one may be lost, take any MPI error for that: its class differs by rank."""
        try:
            with watchdog.waiting():
                yield
        except self._mpi.Exception as error:
            if not self.resilient:
                raise
            raise RankFailedError(f"a collective of rank {self._rank} failed: {error}") from error

    def _put_in_place(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> list[int]:
        """Check an allgather, copy `send` to its place in `receive`; return the byte count of each rank."""
        check_counts(counts, self._size)
        place = check_allgather(send, receive, counts, self._rank)
        if not is_same_memory(send, place):
            place[:] = send
        return [int(count) * receive.itemsize for count in counts]

    def _gather(self, receive: NDArray[Any], lengths: list[int]) -> None:
        if sum(lengths) <= self._chunk:
            self._call("Allgatherv", self._mpi.IN_PLACE, self._layout(receive, lengths))
            return
        for chunk, root in chunks.allgather_chunks(receive, lengths, self._chunk):
            self._call("Bcast", [chunk, chunk.size, self._mpi.BYTE], root)

    def _layout(self, receive: NDArray[Any], lengths: list[int]) -> list[Any]:
        return [chunks.as_bytes(receive), lengths, chunks.displacements(lengths), self._mpi.BYTE]

    def _exchange(self, parts: list[bytes], incoming: NDArray[np.int64]) -> list[bytes]:
        """Send parts[j] to rank j by one Alltoallv; incoming[i] bytes come from rank i."""
        outgoing, counts = list(map(len, parts)), incoming.tolist()
        send, receive = b"".join(parts), np.empty(sum(counts), np.uint8)
        byte = self._mpi.BYTE
        self._call(
            "Alltoallv",
            [send, outgoing, chunks.displacements(outgoing), byte],
            [receive, counts, chunks.displacements(counts), byte],
        )
        return [
            receive[at : at + n].tobytes() for at, n in zip(chunks.displacements(counts), counts, strict=True)
        ]


class MpiRequest:
    """A collective in flight, as one or more MPI requests."""

    def __init__(
        self,
        requests: list[Any],
        parts: list[chunks.AlltoallChunk],
        backoff: bool,
        together: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._requests, self._parts, self._backoff, self._together = requests, parts, backoff, together

    def wait(self) -> None:
        """Block until the collective is complete on this rank. Later calls return at once."""
        with self._together():
            if self._backoff:
                wait_with_backoff(self._requests)
            else:
                for request in self._requests:
                    request.Wait()
        for part in self._parts:
            if part.datatype is not None:
                part.datatype.Free()
        self._requests, self._parts = [], []
