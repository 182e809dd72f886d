"""Ranks as threads of one process: the `Communicator` for tests. It never hangs.

A rank that raises, returns early or calls another collective than its peers ends the wait of all of them. A
rank that raises `SimulatedCrash` is lost: the others may go on without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from silofl.comm.argument_checks import check_allgather, check_alltoall, check_counts, check_reduce
from silofl.comm.family import Family, Relative
from silofl.comm.protocol import RankFailedError, SimulatedCrash
from silofl.comm.rendezvous import Collective, Group, PeerFailed, Rendezvous, World
from silofl.types import ReduceOp

Result = TypeVar("Result")

END_GRACE_S = 1.0

_REDUCE = {"sum": np.add, "min": np.minimum, "max": np.maximum}


def run_in_threads(
    n: int, function: Callable[[ThreadCommunicator], Result], *, timeout_s: float = 60.0
) -> list[Result]:
    """Call `function(comm)` on n ranks, each a thread; return their results in rank order (lost: None).

    The first exception of any rank is raised here, itself and not a copy; peers that wait for that rank
    are woken. TimeoutError after `timeout_s` seconds, whatever the ranks do.
    """
    world = World(deadline=time.monotonic() + timeout_s)
    rendezvous = Group(world, tuple(range(n))).first
    results: list[Any] = [None] * n

    def run(rank: int) -> None:
        try:
            results[rank] = function(ThreadCommunicator(rendezvous, rank))
        except SimulatedCrash:
            world.lose(rank)
        except BaseException as error:
            world.fail(error)
        else:
            world.leave(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(n)]
    for thread in threads:
        thread.start()
    _join(threads, world)
    if world.error is not None:
        raise world.error
    return results


class ThreadCommunicator(Relative["ThreadCommunicator"]):
    """One rank of `run_in_threads`; see `Communicator`. Receivers never alias a sender's arrays."""

    resilient = True

    def __init__(
        self, rendezvous: Rendezvous, rank: int, family: Family[ThreadCommunicator] | None = None
    ) -> None:
        self._rendezvous: Rendezvous | None = rendezvous
        self._members = rendezvous.group.members
        self._rank, self._size = rank, len(self._members)
        self._family = family or Family()

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
        """The rank at the start: threads share one node."""
        return self._members[self._rank]

    @property
    def local_size(self) -> int:
        """The size: threads share one node."""
        return self._size

    def barrier(self) -> None:
        """Return when every rank has called."""
        self._enter("barrier").wait()

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """Every rank's payload, in rank order."""
        return self._enter("allgather_bytes", payload=self._family.outgoing(bytes(payload))).wait()

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Send payloads[j] to rank j; returns what each rank sent here."""
        if len(payloads) != self._size:
            raise ValueError(f"alltoall_bytes needs one payload a rank: {self._size}, not {len(payloads)}")
        rows = self._enter(
            "alltoall_bytes", payload=[self._family.outgoing(bytes(item)) for item in payloads]
        ).wait()
        return [row[self._rank] for row in rows]

    def broadcast_bytes(self, payload: bytes, root: int = 0) -> bytes:
        """The root's payload, on every rank."""
        mine = bytes(payload) if self._rank == root else b""
        content: bytes = self._enter("broadcast_bytes", root, payload=mine).wait()[root]
        return content

    def allreduce(self, values: NDArray[Any], op: ReduceOp = "sum") -> NDArray[Any]:
        """Elementwise reduction, a new array, added up in rank order."""
        check_reduce(values, op)
        every = self._enter("allreduce", op, values.dtype, values.shape, payload=values.copy()).wait()
        total = every[0].copy()
        for other in every[1:]:
            _REDUCE[op](total, other, out=total)
        return np.asarray(total)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Row j of `send` goes to rank j; see `Communicator.alltoall`."""
        self.ialltoall(send, receive).wait()

    def ialltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> ThreadRequest:
        """`alltoall` that returns at once."""
        check_alltoall(send, receive, self._size)
        collective = self._enter("alltoall", send.dtype, send.shape, payload=send.copy())

        def deliver(every: list[NDArray[Any]]) -> None:
            for source, rows in enumerate(every):
                receive[source] = rows[self._rank]

        return ThreadRequest(collective, deliver)

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Concatenate every rank's `send` into `receive`; see `Communicator.allgather`."""
        self.iallgather(send, receive, counts).wait()

    def iallgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> ThreadRequest:
        """`allgather` that returns at once."""
        check_counts(counts, self._size)
        check_allgather(send, receive, counts, self._rank)
        collective = self._enter("allgather", send.dtype, tuple(map(int, counts)), payload=send.copy())

        def deliver(every: list[NDArray[Any]]) -> None:
            np.concatenate(every, out=receive)

        return ThreadRequest(collective, deliver)

    def shared_buffer(self, nbytes: int) -> ThreadSharedBuffer:
        """One segment of zeros a rank; threads share all memory."""
        segments = self._enter("shared_buffer", payload=np.zeros(nbytes, np.uint8)).wait()
        return ThreadSharedBuffer(self, segments)

    def duplicate(self) -> ThreadCommunicator:
        """Another rendezvous for the same ranks."""
        if self._rendezvous is None:
            raise RuntimeError("this communicator was freed")
        rendezvous = self._enter("duplicate", payload=Rendezvous(self._rendezvous.group)).wait()
        return ThreadCommunicator(rendezvous[0], self._rank, self._family)

    def recover(self) -> ThreadCommunicator:
        """See `Communicator.recover`."""
        if self._rendezvous is None:
            raise RuntimeError("this communicator was freed")
        group, number = self._rendezvous.group, self._members[self._rank]
        group.revoke()
        successor = group.successor(number)
        return ThreadCommunicator(successor.first, successor.members.index(number), Family(self._family))

    def free(self) -> None:
        """Release it. Collective; a rank that is lost is not waited for."""
        with suppress(RankFailedError):
            self._enter("free").wait()
        self._rendezvous = None

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank; `run_in_threads` raises SystemExit(exit_code)."""
        raise SystemExit(exit_code)

    def _enter(self, *what: object, payload: Any = None) -> Collective:
        if self._rendezvous is None:
            raise RuntimeError("this communicator was freed")
        return self._rendezvous.enter(self._rank, what, payload)


class ThreadRequest:
    """A collective in flight between threads."""

    def __init__(self, collective: Collective, deliver: Callable[[list[NDArray[Any]]], None]) -> None:
        self._collective: Collective | None = collective
        self._deliver = deliver

    def wait(self) -> None:
        """Block until every rank has posted, then fill `receive`. Later calls return at once."""
        collective, self._collective = self._collective, None
        if collective is not None:
            self._deliver(collective.wait())


class ThreadSharedBuffer:
    """Segments that all threads see."""

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
    while any(thread.is_alive() for thread in threads) and time.monotonic() < end:
        next(thread for thread in threads if thread.is_alive()).join(timeout=0.05)
        if world.error is not None:
            end = min(end, time.monotonic() + END_GRACE_S)
    stuck = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    if stuck:
        world.fail(TimeoutError(f"ranks {stuck} were still running when the time was up"))


__all__ = ["PeerFailed", "ThreadCommunicator", "run_in_threads"]
