"""Common part of both communicators: argument checks, callbacks, and the state that duplicates share."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from silofl.comm import argument_checks, tree_gather
from silofl.comm.group_tree import FlatTree, Groups, GroupTree, tree_of
from silofl.comm.neighbourhood import CountedNeighbourhood
from silofl.comm.parting import Parting
from silofl.comm.protocol import Messages, Neighbourhood, Pending
from silofl.types import ReduceOp

Comm = TypeVar("Comm")


class Counter:
    """A sum that several threads add to."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, more: int) -> None:
        """Add to it."""
        with self._lock:
            self.total += more


class SharedState(Generic[Comm]):
    """State of a communicator and its duplicates on one rank.

    A successor has a state of its own, which keeps the callbacks and the counters of its `predecessor`.
    """

    def __init__(self, predecessor: SharedState[Comm] | None = None) -> None:
        self.open: list[Comm] = []
        """Communicators that were not freed; they are revoked together."""
        self.has_predecessor = predecessor is not None
        self.replace_callbacks: list[Callable[[Comm], None]] = (
            [] if predecessor is None else predecessor.replace_callbacks
        )
        self.on_sent: Callable[[int, int], None] | None = None if predecessor is None else predecessor.on_sent
        self.on_mark: Callable[[str], None] | None = None if predecessor is None else predecessor.on_mark
        self.sent: Counter = Counter() if predecessor is None else predecessor.sent
        self.sent_far: Counter = Counter() if predecessor is None else predecessor.sent_far
        self.messages: Counter = Counter() if predecessor is None else predecessor.messages
        self.groups: Groups = () if predecessor is None else predecessor.groups
        """How silos are grouped; empty where they are not."""
        self.routed: bool = predecessor is None or predecessor.routed
        """Whether messages pass through groups."""
        self.parting: Parting | None = None if predecessor is None else predecessor.parting
        """From ranks that are left out, where there are such."""
        self.corrupt_next = False
        """Whether a bit of the next message is to be flipped: an injected fault."""

    def outgoing(self, payload: bytes) -> bytes:
        """Return the payload as it is sent."""
        if self.corrupt_next and payload:
            self.corrupt_next = False
            return payload[:-1] + bytes([payload[-1] ^ 1])
        return bytes(payload)


class CommunicatorBase(ABC, Generic[Comm]):
    """See `Communicator`. A subclass moves the bytes, in methods whose arguments have been checked."""

    def __init__(self, rank: int, members: tuple[int, ...], state: SharedState[Comm]) -> None:
        self._rank, self._size, self._members, self._state = rank, len(members), members, state
        self._trees: dict[Groups, GroupTree | None] = {}

    @property
    def rank(self) -> int:
        """This rank, 0 <= rank < size."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self._size

    @property
    def members(self) -> tuple[int, ...]:
        """Silo id of each rank, ascending; see `Communicator.members`."""
        return self._members

    @property
    def bytes_sent(self) -> int:
        """Payload bytes sent to other ranks so far; see `Communicator.bytes_sent`."""
        return self._state.sent.total

    @property
    def bytes_between_groups(self) -> int:
        """Of these what went to ranks of other groups; see `Communicator.bytes_between_groups`."""
        return self._state.sent_far.total

    @property
    def messages_sent(self) -> int:
        """Payloads sent to other ranks so far; see `Communicator.messages_sent`."""
        return self._state.messages.total

    def count_sent(self, nbytes: int, *, far: int = 0, messages: int = 0) -> None:
        """Add `nbytes` to `bytes_sent`; see `Communicator.count_sent`."""
        self._state.sent.add(nbytes)
        self._state.sent_far.add(far)
        self._state.messages.add(messages)

    @property
    def groups(self) -> Groups:
        """How silos are grouped; see `Communicator.groups`."""
        return self._state.groups

    def arrange(self, groups: Groups, *, routed: bool = True) -> None:
        """Group silos; see `Communicator.arrange`."""
        self._state.groups, self._state.routed = groups, routed
        self._trees.clear()

    @property
    def tree(self) -> GroupTree | None:
        """The ranks in their groups; see `Communicator.tree`."""
        groups = self._state.groups
        if groups not in self._trees:
            tree = tree_of(groups, self._members) if groups else None
            self._trees[groups] = tree if tree is None or self._state.routed else FlatTree(tree.root)
        return self._trees[groups]

    def _count(self, nbytes: int) -> None:
        """Count what goes to each other rank."""
        far = 0 if self.tree is None else len(self.tree.far(self._rank))
        self.count_sent(nbytes * (self._size - 1), far=nbytes * far)
        self._tell_sent(dict.fromkeys(range(self._size), nbytes))

    def _tell_sent(self, by_rank: Mapping[int, int]) -> None:
        """Count and report what goes to each rank; see `Communicator.on_sent`."""
        others = {rank: nbytes for rank, nbytes in by_rank.items() if rank != self._rank and nbytes}
        self._state.messages.add(len(others))
        if self._state.on_sent is not None:
            for rank, nbytes in others.items():
                self._state.on_sent(self._members[rank], nbytes)

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """Every rank's payload, in rank order; lengths may differ and may be zero."""
        if self.tree is None:
            self._count(len(payload))
            return self._allgather_bytes(self._state.outgoing(payload))
        own = np.frombuffer(self._state.outgoing(payload), np.uint8)
        lengths = np.empty(self._size, np.int64)
        self._allgather(np.array([own.size], np.int64), lengths, [1] * self._size)
        parts = [np.empty(length, np.uint8) for length in lengths.tolist()]
        parts[self._rank] = own
        self._give(self.tree, parts)
        return [part.tobytes() for part in parts]

    def _give(self, tree: GroupTree, parts: list[NDArray[Any]]) -> None:
        """Have every rank's part (k,) on all; they are written to where they are not this rank's own."""
        for sends, receives in tree_gather.messages(tree, parts, self._rank):
            to = {rank: array.nbytes for array, rank in sends}
            self.count_sent(sum(to.values()), far=sum(to[rank] for rank in tree.far(self._rank) & to.keys()))
            self._tell_sent(to)
            arriving = [(array, rank) for rank, (array, _) in receives.items()]
            self._exchange(sends, arriving).wait()
            for array, targets in receives.values():
                tree_gather.take(array, targets)

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Send payloads[j] to rank j; return what each rank sent here, in rank order."""
        if len(payloads) != self._size:
            raise ValueError(f"alltoall_bytes needs one payload a rank: {self._size}, not {len(payloads)}")
        far = () if self.tree is None else self.tree.far(self._rank)
        nbytes = sum(map(len, payloads)) - len(payloads[self._rank])
        self.count_sent(nbytes, far=sum(len(payloads[rank]) for rank in far))
        self._tell_sent(dict(enumerate(map(len, payloads))))
        return self._alltoall_bytes([self._state.outgoing(payload) for payload in payloads])

    def broadcast_bytes(self, payload: bytes, root: int = 0) -> bytes:
        """The root's payload, on every rank; what other ranks pass is ignored."""
        payload = payload if self._rank == root else b""
        self._count(len(payload))
        return self._broadcast_bytes(payload, root)

    def allreduce(self, values: NDArray[Any], op: ReduceOp = "sum") -> NDArray[Any]:
        """Elementwise reduction, a new array; see `Communicator.allreduce`."""
        argument_checks.check_reduce(values, op)
        around = round(values.nbytes * 2 * (self._size - 1) / self._size)
        far = self.tree is not None and (self._rank + 1) % self._size in self.tree.far(self._rank)
        self.count_sent(around, far=around * far)
        self._tell_sent({(self._rank + 1) % self._size: around})
        return self._allreduce(values, op)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send row j of `send` to rank j; see `Communicator.alltoall`."""
        argument_checks.check_alltoall(send, receive, self._size)
        self._count(send.nbytes // self._size)
        self._alltoall(send, receive)

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Concatenate every rank's `send` into `receive`; see `Communicator.allgather`."""
        argument_checks.check_allgather(send, receive, counts, self._rank, self._size)
        lengths = [int(count) for count in counts]
        if self.tree is None:
            self._count(send.nbytes)
            self._allgather(send, receive, lengths)
            return
        parts = np.split(receive.reshape(-1), np.cumsum(lengths)[:-1])
        if not argument_checks.is_same_memory(send, parts[self._rank]):
            parts[self._rank][:] = send.reshape(-1)
        self._give(self.tree, [part.view(np.uint8) for part in parts])

    def exchange(self, sends: Messages, receives: Messages) -> Pending:
        """Messages between pairs of ranks; see `Communicator.exchange`."""
        argument_checks.check_exchange(sends, receives, self._rank, self._size)
        self._tell_sent({rank: array.nbytes for array, rank in sends})
        return self._exchange(sends, receives)

    def neighbourhood(self, sources: Sequence[int], targets: Sequence[int]) -> CountedNeighbourhood:
        """Collectives between neighbours; see `Communicator.neighbourhood`."""
        for ranks in (sources, targets):
            argument_checks.check_neighbours(ranks, self._rank, self._size)
        edges = tuple(map(int, sources)), tuple(map(int, targets))
        return CountedNeighbourhood(self._neighbourhood(*edges), self.count_sent, self._tell_sent)

    @property
    def parting(self) -> Parting | None:
        """From ranks that are left out; None where nobody is."""
        return self._state.parting

    def keep_parting(self, parting: Parting) -> None:
        """Have `parting` here, in duplicates and in successors."""
        self._state.parting = parting

    def on_replace(self, callback: Callable[[Comm], None]) -> None:
        """Have `callback` called with each communicator that replaces this one."""
        self._state.replace_callbacks.append(callback)

    def notify_replaced(self) -> None:
        """Call the `on_replace` callbacks with this communicator. Collective, as they may be."""
        for callback in self._state.replace_callbacks:
            callback(self)  # type: ignore[arg-type]

    def mark(self, step: str) -> None:
        """Report to the `on_mark` callback that this rank reaches a named step; see `Communicator.mark`."""
        if self._state.on_mark is not None:
            self._state.on_mark(step)

    def on_mark(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called by every `mark`; see `Communicator.on_mark`."""
        self._state.on_mark = callback

    def on_sent(self, callback: Callable[[int, int], None]) -> None:
        """Have `callback` called with receiver and bytes of payloads; see `Communicator.on_sent`."""
        self._state.on_sent = callback

    def corrupt_next(self) -> None:
        """Flip a bit of the next message; see `Communicator.corrupt_next`."""
        self._state.corrupt_next = True

    @abstractmethod
    def _allgather_bytes(self, payload: bytes) -> list[bytes]: ...

    @abstractmethod
    def _alltoall_bytes(self, payloads: list[bytes]) -> list[bytes]: ...

    @abstractmethod
    def _broadcast_bytes(self, payload: bytes, root: int) -> bytes: ...

    @abstractmethod
    def _allreduce(self, values: NDArray[Any], op: ReduceOp) -> NDArray[Any]: ...

    @abstractmethod
    def _alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None: ...

    @abstractmethod
    def _exchange(self, sends: Messages, receives: Messages) -> Pending: ...

    @abstractmethod
    def _neighbourhood(self, sources: tuple[int, ...], targets: tuple[int, ...]) -> Neighbourhood: ...

    @abstractmethod
    def _allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: list[int]) -> None: ...
