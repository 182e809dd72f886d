"""`ThreadCommunicator`: ranks as threads of one process, for simulations and tests. It never hangs.

A rank that raises, returns early or calls another collective than its peers ends the wait of all of them. A
rank that raises `SimulatedCrash` has failed: the surviving ranks may go on without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from silofl.comm.base import CommunicatorBase, SharedState
from silofl.comm.by_host import Hosts, by_host
from silofl.comm.neighbourhood import ThreadNeighbourhood
from silofl.comm.protocol import Messages, RankFailedError, SimulatedCrash
from silofl.comm.rendezvous import Collective, Group, PeerFailed, Rendezvous, World
from silofl.types import ReduceOp

Result = TypeVar("Result")

END_GRACE_S = 1.0

_REDUCE = {"sum": np.add, "min": np.minimum, "max": np.maximum}


def run_in_threads(
    n: int,
    function: Callable[[ThreadCommunicator], Result],
    *,
    timeout_s: float = 60.0,
    host_of: Callable[[int], int] = lambda rank: 0,
) -> list[Result]:
    """Call `function(comm)` on n ranks, each a thread; return their results in rank order (failed: None).

    `host_of` says which host a rank pretends to be on.

    The first exception of any rank is raised here, itself and not a copy; peers that wait for that rank
    are woken. TimeoutError after `timeout_s` seconds, whatever the ranks do; never where that is infinite.
    An interrupt of this thread ends all of them.
    """
    world = World(deadline=time.monotonic() + timeout_s, hosts=tuple(map(host_of, range(n))))
    rendezvous = Group(world, tuple(range(n))).first
    results: list[Any] = [None] * n

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadCommunicator(rendezvous, rank))
        except SimulatedCrash:
            world.mark_failed(rank)
        except BaseException as error:
            world.abort(error)
        else:
            world.mark_returned(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(n)]
    for thread in threads:
        thread.start()
    try:
        _join(threads, world)
    except BaseException as interrupt:
        world.abort(interrupt)
        _join(threads, world)
        raise
    if world.error is not None:
        raise world.error
    return results


class ThreadCommunicator(CommunicatorBase["ThreadCommunicator"]):
    """One rank of `run_in_threads`; see `Communicator`. Receivers never alias a sender's arrays."""

    resilient = True

    def __init__(
        self, rendezvous: Rendezvous, rank: int, state: SharedState[ThreadCommunicator] | None = None
    ) -> None:
        super().__init__(rank, rendezvous.group.members, state or SharedState())
        self._rendezvous: Rendezvous | None = rendezvous
        self._hosts: list[Hosts | None] = []

    @property
    def local_rank(self) -> int:
        """Index, at the start, among the ranks of the host that this one pretends to be on."""
        member, on = self._members[self._rank], self._open_rendezvous.group.world.hosts
        return on[:member].count(on[member])

    @property
    def local_size(self) -> int:
        """Number of ranks on the host that this one pretends to be on."""
        return self._on_hosts.count(self._on_hosts[self._rank])

    @property
    def several_hosts(self) -> bool:
        """Whether ranks pretend to be on several hosts."""
        return len(set(self._on_hosts)) > 1

    @property
    def _on_hosts(self) -> list[int]:
        """The host of each rank."""
        group = self._open_rendezvous.group
        return [group.world.hosts[thread] for thread in group.members]

    def barrier(self) -> None:
        """Return when every rank has called."""
        self._enter("barrier").wait()

    def hosts(self) -> Hosts | None:
        """The ranks by the hosts that they pretend to be on; see `Communicator.hosts`."""
        if not self._hosts:
            self._hosts.append(self._find_hosts())
        return self._hosts[0]

    def host_groups(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each host that they pretend to be on; see `Communicator.host_groups`."""
        on = self._on_hosts
        return by_host([on.index(host) for host in on])

    def _find_hosts(self) -> Hosts | None:
        group, groups = self._open_rendezvous.group, self.host_groups()
        if not 1 < len(groups) < self._size:
            return None
        here = next(ranks for ranks in groups if self._rank in ranks)
        own = Rendezvous(group.part(tuple(group.members[rank] for rank in here)))
        made = self._enter("hosts", payload=own).wait()[here[0]]
        return Hosts(groups, self._rank, ThreadCommunicator(made, here.index(self._rank), self._state))

    def shared_buffer(self, nbytes: int) -> ThreadSharedBuffer | None:
        """One segment of zeros a rank; threads share all memory, but of hosts that they pretend to be on."""
        if self.several_hosts:
            return None
        segments = self._enter("shared_buffer", payload=np.zeros(nbytes, np.uint8)).wait()
        return ThreadSharedBuffer(self, segments)

    def duplicate(self) -> ThreadCommunicator:
        """A communicator over the same ranks with a rendezvous of its own."""
        group = self._open_rendezvous.group
        rendezvous = self._enter("duplicate", payload=Rendezvous(group)).wait()
        return ThreadCommunicator(rendezvous[0], self._rank, self._state)

    def recover(self) -> ThreadCommunicator:
        """A communicator of the surviving ranks; see `Communicator.recover`."""
        group, member = self._open_rendezvous.group, self._members[self._rank]
        group.revoke()
        successor = group.successor(member)
        return ThreadCommunicator(successor.first, successor.members.index(member), SharedState(self._state))

    def part(self, members: tuple[int, ...]) -> ThreadCommunicator | None:
        """A communicator of these silos alone; see `Communicator.part`."""
        world, own = self._open_rendezvous.group.world, self._members[self._rank]
        made = self._enter("part", members, payload=Group(world, members)).wait()[0]
        if own not in members:
            return None
        return ThreadCommunicator(made.first, members.index(own), SharedState(self._state))

    def free(self) -> None:
        """Release it. Collective; a failed rank is not waited for."""
        with suppress(RankFailedError):
            self._enter("free").wait()
        self._rendezvous = None

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank; `run_in_threads` raises SystemExit(exit_code)."""
        raise SystemExit(exit_code)

    def _allgather_bytes(self, payload: bytes) -> list[bytes]:
        return self._enter("allgather_bytes", payload=payload).wait()

    def _alltoall_bytes(self, payloads: list[bytes]) -> list[bytes]:
        rows = self._enter("alltoall_bytes", payload=payloads).wait()
        return [row[self._rank] for row in rows]

    def _broadcast_bytes(self, payload: bytes, root: int) -> bytes:
        content: bytes = self._enter("broadcast_bytes", root, payload=bytes(payload)).wait()[root]
        return content

    def _allreduce(self, values: NDArray[Any], op: ReduceOp) -> NDArray[Any]:
        """Add up in rank order."""
        every = self._enter("allreduce", op, values.dtype, values.shape, payload=values.copy()).wait()
        total = every[0].copy()
        for other in every[1:]:
            _REDUCE[op](total, other, out=total)
        return np.asarray(total)

    def _alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        every = self._enter("alltoall", send.dtype, send.shape, payload=send.copy()).wait()
        for source, rows in enumerate(every):
            receive[source] = rows[self._rank]

    def _allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: list[int]) -> None:
        every = self._enter("allgather", send.dtype, tuple(counts), payload=send.copy()).wait()
        np.concatenate(every, out=receive)

    def _exchange(self, sends: Messages, receives: Messages) -> ThreadPending:
        own = {rank: array.copy() for array, rank in sends}
        return ThreadPending(self._enter("exchange", payload=own), self._rank, receives)

    def _neighbourhood(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> ThreadNeighbourhood:
        return ThreadNeighbourhood(
            lambda rows: self._enter("neighbours", payload=rows).wait(), self._rank, sources, targets
        )

    @property
    def _open_rendezvous(self) -> Rendezvous:
        if self._rendezvous is None:
            raise RuntimeError("this communicator was freed")
        return self._rendezvous

    def _enter(self, *what: object, payload: Any = None) -> Collective:
        return self._open_rendezvous.enter(self._rank, what, payload)


class ThreadPending:
    """See `Pending`."""

    def __init__(self, begun: Collective, rank: int, receives: Messages) -> None:
        self._begun, self._rank, self._receives = begun, rank, receives

    def wait(self) -> None:
        """Wait for all ranks, whose messages are there then."""
        every = self._begun.wait()
        for array, rank in self._receives:
            array[...] = every[rank][self._rank].reshape(array.shape)

    def progress(self) -> None:
        """Nothing: threads go on by themselves."""


class ThreadSharedBuffer:
    """See `SharedBuffer`: segments that all threads see."""

    def __init__(self, comm: ThreadCommunicator, segments: list[NDArray[np.uint8]]) -> None:
        self._comm, self._segments = comm, list(segments)

    @property
    def segments(self) -> list[NDArray[np.uint8]]:
        """Every rank's segment, uint8, in rank order."""
        return self._segments

    def sync(self) -> None:
        """Collective barrier; the interpreter's locks are the fence."""
        self._comm.barrier()

    def free(self) -> None:
        """Release it."""
        self._segments = []


def _join(threads: list[threading.Thread], world: World) -> None:
    """Wait for all threads, but not for one that computes on long after the deadline or a peer's failure."""
    end = world.deadline + END_GRACE_S
    while (alive := [thread for thread in threads if thread.is_alive()]) and time.monotonic() < end:
        alive[0].join(timeout=0.05)
        if world.error is not None:
            end = min(end, time.monotonic() + END_GRACE_S)
    stuck = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    if stuck:
        world.abort(TimeoutError(f"ranks {stuck} were still running when the time was up"))


__all__ = ["PeerFailed", "ThreadCommunicator", "run_in_threads"]
