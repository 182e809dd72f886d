"""The `Communicator` protocol: collectives over a fixed set of ranks, and recovery when a rank fails.

Two implementations: `MpiCommunicator` (processes, over mpi4py) and `ThreadCommunicator` (threads of one
process, for tests). All calls are collective unless they say otherwise: every rank makes the same calls in
the same order. Arrays are C-contiguous NumPy arrays; a send buffer is never written. Where `resilient` is
true a collective raises RankFailedError when a rank has failed; no later one on it completes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.comm.by_host import Hosts
from silofl.comm.group_tree import Groups, GroupTree
from silofl.types import ReduceOp

Messages = Sequence[tuple[NDArray[Any], int]]
"""Contiguous arrays, each with the rank that it goes to or comes from."""


class Pending(Protocol):
    """Messages under way."""

    def wait(self) -> None:
        """Return when all of this rank's are through."""

    def progress(self) -> None:
        """Let them go on, which MPI may do in its own calls alone. Not collective."""


class RankFailedError(RuntimeError):
    """A rank of this communicator failed, or a peer has revoked the communicator because one did.

    `Communicator.recover` finds the surviving ranks. Not a `SiloflError`: a run goes on.
    """


class SimulatedCrash(BaseException):
    """Death of one rank of `run_in_threads`, as by SIGKILL: raise it there and catch it nowhere."""


class SharedBuffer(Protocol):
    """Shared memory of the ranks of one node: one segment a rank, each readable and writable by all.

    Only `sync` orders accesses: between two calls a byte is written by one rank or read by any.
    """

    @property
    def segments(self) -> list[NDArray[np.uint8]]:
        """Every rank's segment in rank order, uint8 (the `nbytes` that rank asked for,)."""

    def sync(self) -> None:
        """Memory fence and barrier: what any rank wrote before, every rank reads after. Collective."""

    def free(self) -> None:
        """Release it; no array over a segment may be used afterwards. Not collective."""


class Neighbourhood(Protocol):
    """Collectives along the edges of a graph of ranks; every rank of the communicator calls them.

    `sources` are the ranks that this one receives from and `targets` those that it sends to, ascending. All
    rows have c values, the same c and dtype on every rank, and any byte count, beyond 2^31 too.
    """

    @property
    def sources(self) -> tuple[int, ...]:
        """Where rows come from."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Where they go to."""

    def allgather(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send `send` (c,) to every target; row k of `receive` (sources, c) comes from source k."""

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send row k of `send` (targets, c) to target k; row k of `receive` (sources, c) from source k."""

    def free(self) -> None:
        """Release it. Collective, as of a communicator."""


class Communicator(Protocol):
    """A fixed set of `size` ranks that call collectives together."""

    @property
    def rank(self) -> int:
        """This rank, 0 <= rank < size."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    @property
    def members(self) -> tuple[int, ...]:
        """Silo id of each rank, ascending: its rank in the job's start. `range(size)` until a rank fails."""

    @property
    def local_rank(self) -> int:
        """Index among the ranks of this node: selects the GPU."""

    @property
    def local_size(self) -> int:
        """Number of ranks that share this node, and its memory."""

    @property
    def several_hosts(self) -> bool:
        """Whether ranks run on more than one node."""

    @property
    def bytes_sent(self) -> int:
        """Payload bytes that this rank has sent to other ranks so far.

        Of this communicator, its duplicates and its successors together, from all threads. A payload counts
        once for each rank that receives it, whichever way the library takes:

        - alltoall, alltoall_bytes: all rows or payloads but the own
        - allgather, allgather_bytes: the own part x (size - 1)
        - broadcast_bytes: at the root, the payload x (size - 1)
        - allreduce: nbytes x 2 (size - 1) / size, rounded, as in a ring
        - of a neighbourhood, allgather: the row x targets; alltoall: all rows
        - memory that ranks share: what its user reports to `count_sent`
        - anything else: nothing; no headers, no set-up messages

        Counted when a call begins: one that fails counts in full, and one that is repeated counts again.
        """

    @property
    def bytes_between_groups(self) -> int:
        """What of `bytes_sent` went to ranks of other groups, of the widest; 0 where there are none."""

    @property
    def messages_sent(self) -> int:
        """Payloads of `bytes_sent`, one for each rank that receives one; an allreduce is one, to the next.

        Empty ones, headers and what a library cuts a payload into are not counted.
        """

    def count_sent(self, nbytes: int, *, far: int = 0, messages: int = 0) -> None:
        """Add to `bytes_sent` what other ranks may now read in this rank's shared memory. Not collective.

        `far`: what of it ranks of other groups read. `messages`: for how many ranks it is, where no call of
        this communicator moves it.
        """

    @property
    def groups(self) -> Groups:
        """How silos are grouped, by silo id, also those that are lost; empty where they are not."""

    def arrange(self, groups: Groups, *, routed: bool = True) -> None:
        """Group silos from here on, in duplicates and successors, too. Not collective; the same on all ranks.

        What a rank gives to all then crosses to each group once, and passes from rank to rank there. Not
        `routed`: messages go as they do without groups, and what passes between them is counted.
        """

    @property
    def tree(self) -> GroupTree | None:
        """The ranks in their groups; None where they are not grouped, or one group alone is left."""

    def barrier(self) -> None:
        """Return when every rank has called."""

    def allgather_bytes(self, payload: bytes) -> list[bytes]:
        """Every rank's payload, in rank order; lengths may differ and may be zero."""

    def alltoall_bytes(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Send payloads[j] to rank j; return what each rank sent here, in rank order."""

    def broadcast_bytes(self, payload: bytes, root: int = 0) -> bytes:
        """The root's payload, on every rank; what other ranks pass is ignored."""

    def allreduce(self, values: NDArray[Any], op: ReduceOp = "sum") -> NDArray[Any]:
        """Elementwise reduction, a new array. Sums of 8- and 16-bit integers raise TypeError.

        Open MPI saturates them (open-mpi/ompi #8045) where a ring must wrap.
        """

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """Send row j of `send` (n, c) to rank j; row i of `receive` (n, c) comes from rank i.

        `send` and `receive` do not overlap. Any byte count, beyond 2^31 too.
        """

    def allgather(self, send: NDArray[Any], receive: NDArray[Any], counts: Sequence[int]) -> None:
        """Concatenate every rank's `send` (counts[rank],) into `receive` (sum(counts),), in rank order.

        `send` may be this rank's own part of `receive`. Any byte count, beyond 2^31 too.
        """

    def exchange(self, sends: Messages, receives: Messages) -> Pending:
        """Begin to send and to fill arrays, which come with the rank at the other end.

        One message at most from a rank to another, of as many bytes as are expected there; none is a call,
        too. Several calls may be under way. Arrays are MPI's until `Pending.wait` returns, or `recover` does.
        Not in `bytes_sent`: its user reports it to `count_sent`.
        """

    def neighbourhood(self, sources: Sequence[int], targets: Sequence[int]) -> Neighbourhood:
        """Collectives between ranks that are neighbours, other ones than itself, ascending.

        Each rank names its own, and a rank is a target of its sources. It fails as this communicator does.
        """

    def hosts(self) -> Hosts | None:
        """The ranks by host; None on every rank where all share one, or each has its own.

        Its communicator lives as long as this one.
        """

    def host_groups(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each host, ascending, in the order of their first ranks.

        Collective the first time.
        """

    def shared_buffer(self, nbytes: int) -> SharedBuffer | None:
        """One segment of `nbytes` zeros for each rank; None on every rank where no memory is shared.

        `nbytes` may differ from rank to rank. None: ranks on several nodes, or too little shared memory.
        """

    def duplicate(self) -> Communicator:
        """A communicator over the same ranks whose messages never match this one's."""

    def free(self) -> None:
        """Release it. Collective over the surviving ranks; no call of it may be in progress."""

    @property
    def resilient(self) -> bool:
        """Whether the surviving ranks can go on when one fails."""

    def recover(self) -> Communicator:
        """After RankFailedError: a communicator of the surviving ranks, in the order of their silo ids.

        Collective over those. It revokes this communicator and its duplicates, so peers that still wait in
        one of their collectives get RankFailedError there.
        """

    def part(self, members: tuple[int, ...]) -> Communicator | None:
        """A communicator of these silos alone, which replaces this one on their ranks; None on the others.

        Those have to stay until the end of the process: see `LeftOutError`. Collective.
        """

    def on_replace(self, callback: Callable[[Any], None]) -> None:
        """Have `callback` called with each communicator that replaces this one. Not collective."""

    def notify_replaced(self) -> None:
        """Call the `on_replace` callbacks of the replaced communicators with this one. Collective."""

    def mark(self, step: str) -> None:
        """Report to the `on_mark` callback that this rank reaches a named step of a round. Not collective."""

    def on_mark(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called by every `mark` of this communicator, its duplicates and its successors."""

    def on_sent(self, callback: Callable[[int, int], None]) -> None:
        """Have `callback` called with the receiver's silo id and the bytes of every payload sent to it.

        Of this communicator, its duplicates and its successors; a message between the ranks of a host through
        their memory is none.
        """

    def corrupt_next(self) -> None:
        """Flip a bit of the next message that this rank sends as bytes: an injected fault. Not collective."""

    def abort(self, exit_code: int) -> NoReturn:
        """End every rank at once with this exit code. Not collective: the last resort."""
