"""`MpiCommunicator`: ranks as processes, by MPI's buffer collectives on a duplicated communicator.

Arrays move as bytes, so every dtype takes one path; what is longer than `chunk_bytes` is cut by `chunks`.
On an oversubscribed node ranks wait in nonblocking collectives, because blocking ones spin: see `polling`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from silofl.comm import chunks, eager, mpi_library, pairwise, parting, shared_memory
from silofl.comm.argument_checks import is_same_memory, own_part
from silofl.comm.base import CommunicatorBase, SharedState
from silofl.comm.by_host import Hosts, by_host
from silofl.comm.neighbourhood import MpiNeighbourhood, PairwiseNeighbourhood
from silofl.comm.node import Node, discover_node
from silofl.comm.polling import wait_with_backoff
from silofl.comm.protocol import Messages, Neighbourhood, RankFailedError
from silofl.launcher import watchdog
from silofl.launcher.detection import fault_tolerance_enabled
from silofl.types import ReduceOp

if TYPE_CHECKING:
    from mpi4py import MPI

CHUNK_BYTES = 1 << 30
FAR_BYTES = 1 << 16
"""An allgather of so much crosses to each host once; a shorter one takes fewer steps by the library's way."""


class _Settings(NamedTuple):
    """Settings that a communicator, its duplicates and its successors have in common."""

    mpi: Any
    chunk_bytes: int
    node: Node
    backoff: bool


class MpiCommunicator(CommunicatorBase["MpiCommunicator"]):
    """See `Communicator`. Collective to make: it duplicates `comm` (COMM_WORLD if None).

    `chunk_bytes` (at most 2^30) is the longest stretch that one MPI call moves between two ranks. With
    `backoff` ranks sleep while they wait for peers; None: on an oversubscribed node.
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
            raise RankFailedError(f"a rank failed before all ranks were connected: {error}") from error
        backoff = node.oversubscribed if backoff is None else backoff
        settings = _Settings(mpi, chunk_bytes, node, backoff)
        self._set_up(settings, own, tuple(range(own.size)), SharedState())

    def _set_up(
        self,
        settings: _Settings,
        comm: MPI.Intracomm,
        members: tuple[int, ...],
        state: SharedState[MpiCommunicator],
    ) -> None:
        super().__init__(int(comm.rank), members, state)
        self._settings, self._comm = settings, comm
        self._mpi, self._chunk, self._node, self._backoff = settings
        self._hosts: list[Hosts | None] = []
        self._groups: tuple[tuple[int, ...], ...] = (tuple(range(self._size)),)
        self._under_way: list[pairwise.Exchange] = []
        state.open.append(self)

    def _wrap(
        self,
        comm: MPI.Intracomm,
        members: tuple[int, ...],
        state: SharedState[MpiCommunicator],
        settings: _Settings | None = None,
    ) -> MpiCommunicator:
        """A communicator over `comm` itself, with this one's settings unless others are given."""
        other = object.__new__(MpiCommunicator)
        other._set_up(settings or self._settings, comm, members, state)
        return other

    @property
    def local_rank(self) -> int:
        """Index among the ranks of this node."""
        return self._node.rank

    @property
    def local_size(self) -> int:
        """Number of ranks on this node."""
        return self._node.size

    @property
    def several_hosts(self) -> bool:
        """Whether ranks do not all share one node."""
        return not self._node.whole

    @property
    def handle(self) -> MPI.Intracomm:
        """The MPI communicator itself, for `comm.respawn`."""
        return self._comm

    @property
    def mpi_error(self) -> type[BaseException]:
        """The exception of mpi4py itself, for those who call `handle`."""
        error: type[BaseException] = self._mpi.Exception
        return error

    @property
    def resilient(self) -> bool:
        """Whether this job was started with ULFM (`mpirun --with-ft ulfm`)."""
        return fault_tolerance_enabled(os.environ)

    @property
    def membership_changed(self) -> bool:
        """Whether a rank of this job failed, or rejoined, before this communicator was made."""
        return self._state.has_predecessor

    def barrier(self) -> None:
        """Return when every rank has called."""
        self._call("Barrier")

    def shared_buffer(self, nbytes: int) -> shared_memory.MappedBuffer | None:
        """One segment of `nbytes` zeros for each rank; None on every rank where no memory is shared."""
        segment = shared_memory.MemfdSegment(nbytes)
        try:
            segments = shared_memory.map_segments(self._addresses(segment)) if self._node.whole else None
            mapped = np.array([segments is not None], np.int32)
            everywhere = np.empty_like(mapped)
            self._call("Allreduce", mapped, everywhere, self._mpi.MIN)
        finally:
            segment.close()
        return shared_memory.MappedBuffer(segments or [], self.barrier) if everywhere[0] else None

    def hosts(self) -> Hosts | None:
        """The ranks by host; see `Communicator.hosts`. Collective the first time."""
        if not self._hosts:
            self._hosts.append(None if self._node.whole else self._find_hosts())
        return self._hosts[0]

    def host_groups(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each host; see `Communicator.host_groups`."""
        self.hosts()
        return self._groups

    def _find_hosts(self) -> Hosts | None:
        with self._peer_errors():
            own: Any = self._split_by_host()
            here = self._mpi.Group.Translate_ranks(own.group, range(own.size), self._comm.group)
        firsts = np.empty(self._size, np.int64)
        self._call("Allgather", np.array(here[:1], np.int64), firsts)
        self._groups = groups = by_host(firsts.tolist())
        settings = self._settings._replace(node=replace(self._node, whole=True))
        host = self._wrap(own, tuple(self._members[rank] for rank in here), self._state, settings)
        if 1 < len(groups) < self._size:
            return Hosts(groups, self._rank, host)
        host.free()
        return None

    def _split_by_host(self) -> MPI.Comm:
        return self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)

    def _addresses(self, segment: shared_memory.MemfdSegment) -> list[bytes]:
        own = np.frombuffer(segment.address(), np.uint8)
        every = np.empty((self._size, own.size), np.uint8)
        self._call("Allgather", own, every)
        return [address.tobytes() for address in every]

    def duplicate(self) -> MpiCommunicator:
        """A communicator over the same ranks whose messages never match this one's."""
        with self._peer_errors():
            other = self._comm.Dup()
        self.barrier()  # Open MPI crashes in a rank whose Dup is not over when others revoke what it makes
        return self._wrap(other, self._members, self._state)

    def outlast_failures(self) -> MpiCommunicator:
        """This one, left out of what `revoke` fails: living ranks still reach each other. Not collective."""
        if self in self._state.open:
            self._state.open.remove(self)
        return self

    def free(self) -> None:
        """Release it. Collective; a revoked one is left to the end of the process."""
        if self in self._state.open:
            self._state.open.remove(self)
            with suppress(RankFailedError), self._peer_errors():
                for hosts in filter(None, self._hosts):
                    hosts.own.free()
                self._comm.Free()

    def revoke(self) -> None:
        """Fail every collective of this communicator and its duplicates on all ranks. Not collective."""
        for one in self._state.open:
            one._comm.Revoke()
        self._state.open = []

    def recover(self) -> MpiCommunicator:
        """A communicator of the surviving ranks; see `Communicator.recover`."""
        self.revoke()
        for exchange in self._under_way:
            exchange.abandon()
        shrunk: Any = self._comm
        members = self._members
        with watchdog.waiting():
            while True:
                wider, shrunk = shrunk, shrunk.Shrink()
                ranks = self._mpi.Group.Translate_ranks(shrunk.group, range(shrunk.size), wider.group)
                members = tuple(members[rank] for rank in ranks)
                try:
                    shrunk.Agree(1)
                except self._mpi.Exception:
                    continue  # another rank failed meanwhile, and all ranks know it
                return self._wrap(shrunk, members, SharedState(self._state))

    def part(self, members: tuple[int, ...]) -> MpiCommunicator | None:
        """A communicator of these silos alone; see `Communicator.part`."""
        with self._peer_errors():
            apart = self._comm.Split(int(self._members[self._rank] not in members), self._rank)
        return parting.part(self, apart, members)

    def successor(self, comm: MPI.Intracomm, members: tuple[int, ...]) -> MpiCommunicator:
        """A communicator over `comm` that replaces this one when ranks rejoin. Collective."""
        node = discover_node(self._mpi, comm)
        backoff = np.array([node.oversubscribed or self._backoff], np.int32)
        comm.Allreduce(self._mpi.IN_PLACE, backoff, self._mpi.MAX)
        settings = self._settings._replace(node=node, backoff=bool(backoff[0]))
        return self._wrap(comm, members, SharedState(self._state), settings)

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank at once with this exit code."""
        mpi_library.abort(exit_code)

    def finalize(self) -> None:
        """End MPI in this process; nothing of it can be used afterwards."""
        mpi_library.finalize()

    def leave_launcher(self) -> None:
        """Tell the launcher that this process ends as it should, while `finalize` still waits."""
        mpi_library.leave_launcher()

    def final_barrier(self, timeout_s: float) -> bool:
        """Wait until every rank calls `final_barrier`; False if some have not after `timeout_s` seconds.

        Not for a communicator that is also used for anything else. An MPI error (a dead rank) counts as True:
        no rank is left to wait for.
        """
        try:
            with watchdog.waiting():
                return wait_with_backoff([self._comm.Ibarrier()], timeout_s)
        except self._mpi.Exception:
            return True

    def _allgather_bytes(self, payload: bytes) -> list[bytes]:
        slots = eager.empty(self._size)
        self._call("Allgather", eager.slot(payload, len(payload)), slots)
        counts, short = eager.lengths(slots), eager.contents(slots)
        if short is not None:
            return short
        receive = np.empty(sum(counts), np.uint8)
        self._allgather(np.frombuffer(payload, np.uint8), receive, counts)
        return chunks.parts(receive, counts)

    def _alltoall_bytes(self, payloads: list[bytes]) -> list[bytes]:
        longest = max(map(len, payloads))
        slots = eager.empty(self._size)
        self._call("Alltoall", np.stack([eager.slot(payload, longest) for payload in payloads]), slots)
        short = eager.contents(slots)
        if short is not None:
            return short
        counts = np.array(eager.lengths(slots), np.int64)
        step = max(1, self._chunk // self._size)
        rounds = [
            self._alltoallv([payload[at : at + step] for payload in payloads], (counts - at).clip(0, step))
            for at in range(0, eager.longest(slots), step)
        ]
        return [b"".join(parts) for parts in zip(*rounds, strict=True)]

    def _alltoallv(self, parts: list[bytes], incoming: NDArray[np.int64]) -> list[bytes]:
        """Send parts[j] to rank j by one Alltoallv; incoming[i] bytes come from rank i."""
        outgoing, counts = list(map(len, parts)), incoming.tolist()
        send, receive = b"".join(parts), np.empty(sum(counts), np.uint8)
        sent, received, byte = *map(chunks.displacements, (outgoing, counts)), self._mpi.BYTE
        self._call("Alltoallv", [send, outgoing, sent, byte], [receive, counts, received, byte])
        return chunks.parts(receive, counts)

    def _broadcast_bytes(self, payload: bytes, root: int) -> bytes:
        length = np.array([len(payload)], np.int64)
        self._call("Bcast", length, root)
        content = np.empty(int(length[0]), np.uint8)
        if self._rank == root:
            content[:] = np.frombuffer(payload, np.uint8)
        self._broadcast(content, root)
        return content.tobytes()

    def _broadcast(self, content: NDArray[np.uint8], root: int) -> None:
        for chunk in chunks.split(content, self._chunk):
            self._call("Bcast", [chunk, chunk.size, self._mpi.BYTE], root)

    def _allreduce(self, values: NDArray[Any], op: ReduceOp) -> NDArray[Any]:
        send = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")).reshape(-1)
        total = np.empty_like(send)
        operation = {"sum": self._mpi.SUM, "min": self._mpi.MIN, "max": self._mpi.MAX}[op]
        step = max(1, self._chunk // send.itemsize)
        for at in range(0, send.size, step):
            self._call("Allreduce", send[at : at + step], total[at : at + step], operation)
        return total.reshape(values.shape)

    def _alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        for part in chunks.alltoall_chunks(self._mpi, send, receive, self._chunk):
            self._call("Alltoall", part.send, part.receive)
            if part.datatype is not None:
                part.datatype.Free()

    def _allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: list[int]) -> None:
        part = own_part(receive, counts, self._rank)
        if not is_same_memory(send, part):
            part[:] = send
        flat, lengths = chunks.as_bytes(receive), [count * receive.itemsize for count in counts]
        hosts = self.hosts() if FAR_BYTES <= flat.size <= self._chunk else None
        if hosts is not None:
            self._allgather_by_host(hosts, flat, lengths)
            return
        if flat.size <= self._chunk:
            layout = [flat, lengths, chunks.displacements(lengths), self._mpi.BYTE]
            self._call("Allgatherv", self._mpi.IN_PLACE, layout)
            return
        for root, (start, length) in enumerate(zip(chunks.displacements(lengths), lengths, strict=True)):
            self._broadcast(flat[start : start + length], root)

    def _allgather_by_host(self, hosts: Hosts, flat: NDArray[np.uint8], lengths: list[int]) -> None:
        """Every rank's part, in place: to a relay on each other host, and from there to all of that host."""
        starts = chunks.displacements(lengths)
        parts = [flat[start : start + length] for start, length in zip(starts, lengths, strict=True)]
        own, taken = parts[self._rank], [(parts[rank], rank) for rank in hosts.charges]
        self.exchange([(own, rank) for rank in hosts.relays], taken).wait()
        width = len(hosts.here)
        for group in hosts.groups:
            for first in range(0, len(group), width):  # of each relay one at a time
                given = [*group[first : first + width], *[None] * width][:width]
                layout = [
                    flat,
                    [0 if rank is None else lengths[rank] for rank in given],
                    [0 if rank is None else starts[rank] for rank in given],
                    self._mpi.BYTE,
                ]
                hosts.own._call("Allgatherv", self._mpi.IN_PLACE, layout)  # type: ignore[attr-defined]

    def _exchange(self, sends: Messages, receives: Messages) -> pairwise.Exchange:
        with self._peer_errors():
            exchange = pairwise.Exchange(self._comm, self._mpi, self._peer_errors, backoff=self._backoff)
            self._under_way.append(exchange)
            exchange.post(sends, receives, self._chunk)
            self._under_way = [one for one in self._under_way if one.open]
        return exchange

    def _neighbourhood(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> Neighbourhood:
        if self.resilient:
            return PairwiseNeighbourhood(self._exchange, sources, targets)
        with self._peer_errors():
            graph = self._comm.Create_dist_graph_adjacent(sources, targets)
        self.barrier()  # as in `duplicate`
        return MpiNeighbourhood(self._wrap(graph, self._members, self._state), sources, targets)

    def _call(self, collective: str, *buffers: Any) -> None:
        """Run a blocking collective, or its nonblocking twin where ranks wait with backoff."""
        with self._peer_errors():
            if self._backoff:
                wait_with_backoff([getattr(self._comm, f"I{collective.lower()}")(*buffers)])
            else:
                getattr(self._comm, collective)(*buffers)

    @contextmanager
    def _peer_errors(self) -> Iterator[None]:
        """Wait for peers; where ranks may fail, raise RankFailedError for any MPI error: its class varies."""
        try:
            with watchdog.waiting():
                yield
        except self._mpi.Exception as error:
            if not self.resilient:
                raise
            raise RankFailedError(f"a collective of rank {self._rank} failed: {error}") from error
