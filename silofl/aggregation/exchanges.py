"""Exchanges of rows between ranks: by messages, through memory that ranks share, or both between hosts."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.shards import ALIGNMENT
from silofl.comm.by_host import Hosts
from silofl.comm.protocol import Communicator, Pending, SharedBuffer
from silofl_kernels import reduce_rows

Row = NDArray[Any]
BUFFERS = 2
"""While one is read by others, the next is filled: one fence a chunk instead of two."""
AHEAD = 2
"""Between hosts so many are on their way while the next is filled: the link has work while a rank is late."""
TURNS = AHEAD + BUFFERS


class Exchange(Protocol):
    """Rows between n ranks, and one result of each; `alltoall` and `give` are collective.

    A caller fills `outgoing`, calls one of the two, and reads the rows until the next call but one.
    """

    ahead: int
    """How many calls may be made before what came of the first has to be taken, by `arrived` or `given`."""
    allgather_width: int
    """Most values that one `give` takes."""
    result: NDArray[Any]
    """This rank's result, for the caller to fill."""
    failing: list[int]
    """The ranks that said in the `give` that was taken last that they have failed."""

    def outgoing(self) -> NDArray[Any]:
        """(n, width) to fill: row j is for rank j, or the whole for `give`. Another after every call."""

    def progress(self) -> None:
        """Let messages under way go on, in the middle of other work. Not collective."""

    def alltoall(self) -> list[Row]:
        """Give the filled rows away; what every rank had for this one: n rows (width,), not to be written.

        Where rows are there to be added up, there may be one sum in the place of several, and some may still
        be on their way.
        """

    def arrived(self) -> list[Row]:
        """The rows that were on their way in the first `alltoall` of which they were not taken."""

    def give(self, count: int, *, failed: bool = False) -> None:
        """Give everybody the first `count` filled values.

        A rank that has `failed` fills nothing and says so.
        """

    def given(self) -> list[Row]:
        """Every rank's values of the first `give` that was not taken: n rows (count,), for reading."""

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """Another rank's result, even when it is lost; None where only that rank can read it."""

    def close(self) -> None:
        """Release the buffers."""


class Prompt:
    """What is there when a call returns: nothing is on its way."""

    ahead = 0
    _rows: list[Row]

    def progress(self) -> None:
        """See `Exchange`."""

    def arrived(self) -> list[Row]:
        """See `Exchange`."""
        return []

    def given(self) -> list[Row]:
        """See `Exchange`."""
        return self._rows


class MessageExchange(Prompt):
    """Rows as messages: an Alltoall for `alltoall`, an Allgather for `give`."""

    def __init__(self, comm: Communicator, width: int, length: int, dtype: np.dtype[Any]) -> None:
        self._comm, self.allgather_width = comm, width
        self._flat = np.zeros(comm.size * width + 1, dtype)
        self._send = self._flat[:-1].reshape(comm.size, width)
        self._receive = np.zeros((BUFFERS, comm.size * (width + 1)), dtype)
        self.result, self.failing = np.empty(length, dtype), list[int]()
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        return self._send

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        receive = self._next()[: self._send.size].reshape(self._send.shape)
        self._comm.alltoall(self._send, receive)
        return list(receive)

    def give(self, count: int, *, failed: bool = False) -> None:
        """See `Exchange`; behind the values goes whether this rank has failed."""
        part = self._flat[: count + 1]
        part[count] = failed
        receive = self._next()[: part.size * self._comm.size]
        self._comm.allgather(part, receive, [part.size] * self._comm.size)
        rows = receive.reshape(self._comm.size, part.size)
        self.failing = np.flatnonzero(rows[:, count]).tolist()
        self._rows = list(rows[:, :count])

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        return self.result if rank == self._comm.rank else None

    def close(self) -> None:
        """See `Exchange`; messages leave nothing behind."""

    def _next(self) -> NDArray[Any]:
        self._turn = (self._turn + 1) % BUFFERS
        receive: NDArray[Any] = self._receive[self._turn]
        return receive


class SoleExchange(MessageExchange):
    """Rows for one rank alone; what others would have is nowhere sent, and their rows are anything."""

    def __init__(self, comm: Communicator, sole: int, width: int, length: int, dtype: np.dtype[Any]) -> None:
        super().__init__(comm, width, length, dtype)
        self._sole = sole

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        comm, row = self._comm, self._send[self._sole]
        receive = self._next()[: self._send.size].reshape(self._send.shape)
        if comm.rank == self._sole:
            receive[self._sole] = row
            others = [(one, rank) for rank, one in enumerate(receive) if rank != self._sole]
            comm.exchange([], others).wait()
        else:
            comm.count_sent(row.nbytes)
            comm.exchange([(row, self._sole)], []).wait()
        return list(receive)


class WindowExchange(Prompt):
    """Rows in memory that all ranks see: filled in place, fenced, and read where they lie."""

    def __init__(self, comm: Communicator, shared: SharedBuffer, width: int, dtype: np.dtype[Any]) -> None:
        self._comm, self._shared, self._rank = comm, shared, comm.rank
        self.allgather_width = comm.size * width
        shape = (BUFFERS, comm.size, width)
        rows = BUFFERS * comm.size * width
        words = [segment.view(dtype) for segment in shared.segments]
        self._buffers = [one[:rows].reshape(shape) for one in words]
        self._results = [one[rows:-BUFFERS] for one in words]
        self._failed = [one[-BUFFERS:] for one in words]
        self.result, self.failing = self._results[comm.rank], list[int]()
        self._turn = 0

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        filled: NDArray[Any] = self._buffers[self._rank][self._turn]
        return filled

    def alltoall(self) -> list[Row]:
        """See `Exchange`."""
        others = len(self._buffers) - 1
        self._comm.count_sent(self.outgoing()[1:].nbytes, messages=others)
        turn = self._fence()
        return [buffer[turn, self._rank] for buffer in self._buffers]

    def give(self, count: int, *, failed: bool = False) -> None:
        """See `Exchange`."""
        others = len(self._buffers) - 1
        self._comm.count_sent((count + 1) * self.result.itemsize * others, messages=others)
        self._failed[self._rank][self._turn] = failed
        turn = self._fence()
        self.failing = [rank for rank, one in enumerate(self._failed) if one[turn]]
        self._rows = [buffer[turn].reshape(-1)[:count] for buffer in self._buffers]

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        return self._results[rank]

    def close(self) -> None:
        """See `Exchange`."""
        self._buffers, self._results, self._failed, self._rows = [], [], [], []
        self._shared.free()

    def _fence(self) -> int:
        """Others may read what was filled; what they read before is free to be filled again."""
        self._shared.sync()
        turn, self._turn = self._turn, (self._turn + 1) % BUFFERS
        return turn


class HostPlaces:
    """Where things lie in the memory that the ranks of a host share: one segment each, counted in words."""

    def __init__(self, ranks: int, width: int, hosts: Hosts) -> None:
        self.hosts, self.shape = hosts, (ranks, width)
        whole = ranks * width + 1  # behind what all are given stands whether the rank has failed
        self.turn = whole + -whole % ALIGNMENT
        self.rows = TURNS * self.turn

    def taken(self, rank: int) -> int:
        """What a rank takes for its host from ranks of others."""
        return self.rows * len(self.hosts.charges_of(rank))

    def words(self, rank: int, length: int) -> int:
        """Of all of a rank's segment, with a result of so many."""
        return self.rows + self.taken(rank) + length


class HostExchange:
    """Rows of integers between hosts with several ranks each, in which all that crosses crosses once.

    On a host they lie in memory that all its ranks see. A host's rows for a rank elsewhere are added up by
    one of its ranks, the relay, before they cross, and what a rank gives to all crosses to its relay on each
    other host, which has it for all ranks there. While something crosses, the caller goes on.
    """

    ahead = AHEAD

    def __init__(
        self, comm: Communicator, places: HostPlaces, shared: SharedBuffer, dtype: np.dtype[Any]
    ) -> None:
        hosts, width = places.hosts, places.shape[1]
        self._comm, self._hosts, self._places, self._shared = comm, hosts, places, shared
        self.allgather_width = width  # short pieces, so that one crosses while another is made
        words = [segment.view(dtype) for segment in shared.segments]
        self._rows = [one[: places.rows].reshape(TURNS, places.turn) for one in words]
        taken = [places.taken(rank) for rank in hosts.here]
        self._taken = [
            one[places.rows : places.rows + count].reshape(TURNS, -1, places.turn) if count else one[:0]
            for one, count in zip(words, taken, strict=True)
        ]
        self._results = [one[places.rows + count :] for one, count in zip(words, taken, strict=True)]
        self._own = hosts.here.index(comm.rank)
        self.result, self.failing = self._results[self._own], list[int]()
        self._leaving = np.empty((TURNS, len(hosts.charges), width), dtype)
        self._arriving = np.empty((TURNS, len(hosts.relays), width), dtype)
        self._turn = 0
        self._under_way: deque[tuple[Pending, int, int]] = deque()
        """Messages, their turn and, of what is given to all, how many values they have."""

    def outgoing(self) -> NDArray[Any]:
        """See `Exchange`."""
        filled: NDArray[Any] = self._rows[self._own][self._turn]
        ranks, width = self._places.shape
        return filled[: ranks * width].reshape(ranks, width)

    def progress(self) -> None:
        """See `Exchange`."""
        for pending, _, _ in self._under_way:
            pending.progress()

    def alltoall(self) -> list[Row]:
        """See `Exchange`; the rows of this host's ranks: a sum of each other's is on its way."""
        across = self._leaving[self._turn].nbytes if self._comm.tree is not None else 0
        self._comm.count_sent(self.outgoing()[1:].nbytes, far=across, messages=len(self._rows) - 1)
        self._shared.sync()
        hosts, turn = self._hosts, self._next_turn()
        for row, rank in zip(self._leaving[turn], hosts.charges, strict=True):
            reduce_rows(self._rows_for(rank, turn), row)
        sends = list(zip(self._leaving[turn], hosts.charges, strict=True))
        receives = list(zip(self._arriving[turn], hosts.relays, strict=True))
        self._under_way.append((self._comm.exchange(sends, receives), turn, 0))
        return self._rows_for(self._comm.rank, turn)

    def arrived(self) -> list[Row]:
        """See `Exchange`."""
        pending, turn, _ = self._under_way.popleft()
        pending.wait()
        return list(self._arriving[turn])

    def _rows_for(self, rank: int, turn: int) -> list[Row]:
        """What the ranks of this host have for one."""
        width = self._places.shape[1]
        return [rows[turn, rank * width : (rank + 1) * width] for rows in self._rows]

    def give(self, count: int, *, failed: bool = False) -> None:
        """See `Exchange`; behind the values goes whether this rank has failed."""
        hosts, turn = self._hosts, self._next_turn()
        own, taken = self._rows[self._own][turn, : count + 1], self._taken[self._own]
        across = own.nbytes * len(hosts.relays) if self._comm.tree is not None else 0
        near = len(self._rows) - 1
        self._comm.count_sent(own.nbytes * (self._comm.size - 1), far=across, messages=near)
        own[count] = failed
        receives = [(taken[turn, k, : count + 1], rank) for k, rank in enumerate(hosts.charges)]
        pending = self._comm.exchange([(own, rank) for rank in hosts.relays], receives)
        self._under_way.append((pending, turn, count))

    def given(self) -> list[Row]:
        """See `Exchange`."""
        pending, turn, count = self._under_way.popleft()
        pending.wait()
        self._shared.sync()  # all that is given to this host is there
        every = [self._given_by(rank, turn) for rank in range(self._comm.size)]
        self.failing = [rank for rank, part in enumerate(every) if part[count]]
        return [part[:count] for part in every]

    def _given_by(self, rank: int, turn: int) -> Row:
        """What any rank gives to all, where it lies on this host."""
        hosts = self._hosts
        if rank in hosts.here:
            row: Row = self._rows[hosts.here.index(rank)][turn]
        else:
            relay = hosts.relay(rank, hosts.here)
            row = self._taken[hosts.here.index(relay)][turn, hosts.charges_of(relay).index(rank)]
        return row

    def result_of(self, rank: int) -> NDArray[Any] | None:
        """See `Exchange`."""
        here = self._hosts.here
        return self._results[here.index(rank)] if rank in here else None

    def close(self) -> None:
        """See `Exchange`."""
        self._rows, self._taken, self._results = [], [], []
        self._shared.free()

    def _next_turn(self) -> int:
        """The turn that was filled; from here on the next one is."""
        turn, self._turn = self._turn, (self._turn + 1) % TURNS
        return turn
