"""Collectives between neighbours in a graph of ranks: MPI's neighbourhood collectives, and threads' own.

A graph is a communicator of its own (`MPI_Dist_graph_create_adjacent`). Where ranks may fail, neighbours
exchange pairwise messages instead: Open MPI says of its graph communicators that they are not tested for what
comes after a failure, and the messages take as long (`benchmarks/neighbourhood.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from silofl.comm import argument_checks, chunks
from silofl.comm.protocol import Messages, Neighbourhood, Pending

if TYPE_CHECKING:
    from silofl.comm.mpi import MpiCommunicator

Rows = dict[int, NDArray[Any]]


class CountedNeighbourhood:
    """See `Neighbourhood`: arguments are checked and bytes counted, then `inner` moves them."""

    def __init__(
        self,
        inner: Neighbourhood,
        count_sent: Callable[[int], None],
        tell_sent: Callable[[Mapping[int, int]], None] = lambda by_rank: None,
    ) -> None:
        self._inner, self._count_sent, self._tell_sent = inner, count_sent, tell_sent

    @property
    def sources(self) -> tuple[int, ...]:
        """See `Neighbourhood`."""
        return self._inner.sources

    @property
    def targets(self) -> tuple[int, ...]:
        """See `Neighbourhood`."""
        return self._inner.targets

    def allgather(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._check(send, receive, (send.size,))
        self._count_sent(send.nbytes * len(self.targets))
        self._tell_sent(dict.fromkeys(self.targets, send.nbytes))
        self._inner.allgather(send, receive)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._check(send, receive, (len(self.targets), *send.shape[1:]))
        self._count_sent(send.nbytes)
        self._tell_sent({target: row.nbytes for target, row in zip(self.targets, send, strict=True)})
        self._inner.alltoall(send, receive)

    def _check(self, send: NDArray[Any], receive: NDArray[Any], sends: tuple[int, ...]) -> None:
        argument_checks.check_neighbour_rows(send, receive, sends)
        if len(receive) != len(self.sources):
            raise ValueError(f"{len(receive)} rows for {len(self.sources)} sources: one for each")

    def free(self) -> None:
        """See `Neighbourhood`."""
        self._inner.free()


class MpiNeighbourhood:
    """See `Neighbourhood`; `comm` is over MPI's communicator of the graph."""

    def __init__(self, comm: MpiCommunicator, sources: tuple[int, ...], targets: tuple[int, ...]) -> None:
        self._comm, self.sources, self.targets = comm, sources, targets

    def allgather(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._call("Neighbor_allgather", send, receive, send.nbytes)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._call("Neighbor_alltoall", send, receive, send.shape[1] * send.itemsize)

    def _call(self, collective: str, send: NDArray[Any], receive: NDArray[Any], width: int) -> None:
        """Rows of `width` bytes, column by column where they are longer than a call may be."""
        out, into = chunks.as_bytes(send), chunks.as_bytes(receive)
        for start, layout in chunks.columns(self._comm._mpi, width, self._comm._chunk):
            self._comm._call(collective, [out[start:], *layout], [into[start:], *layout])

    def free(self) -> None:
        """See `Neighbourhood`."""
        self._comm.free()


class PairwiseNeighbourhood:
    """See `Neighbourhood`: messages between pairs of ranks by `exchange`, see `Communicator.exchange`."""

    def __init__(
        self,
        exchange: Callable[[Messages, Messages], Pending],
        sources: tuple[int, ...],
        targets: tuple[int, ...],
    ) -> None:
        self._exchange, self.sources, self.targets = exchange, sources, targets

    def allgather(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._exchange([(send, rank) for rank in self.targets], self._received(receive)).wait()

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._exchange(list(zip(send, self.targets, strict=True)), self._received(receive)).wait()

    def _received(self, receive: NDArray[Any]) -> Messages:
        return list(zip(receive, self.sources, strict=True))

    def free(self) -> None:
        """See `Neighbourhood`."""


class ThreadNeighbourhood:
    """See `Neighbourhood`: every rank gives all ranks its rows by target. `gather` is collective."""

    def __init__(
        self,
        gather: Callable[[Rows], list[Rows]],
        rank: int,
        sources: tuple[int, ...],
        targets: tuple[int, ...],
    ) -> None:
        self._gather, self._rank, self.sources, self.targets = gather, rank, sources, targets

    def allgather(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._exchange([send] * len(self.targets), receive)

    def alltoall(self, send: NDArray[Any], receive: NDArray[Any]) -> None:
        """See `Neighbourhood`."""
        self._exchange(list(send), receive)

    def _exchange(self, rows: list[NDArray[Any]], receive: NDArray[Any]) -> None:
        every = self._gather({to: row.copy() for to, row in zip(self.targets, rows, strict=True)})
        for row, source in zip(receive, self.sources, strict=True):
            row[...] = every[source][self._rank]

    def free(self) -> None:
        """See `Neighbourhood`."""
