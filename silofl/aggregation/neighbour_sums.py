"""Weighted sums of neighbours' messages, in the clear: each silo's own sum, of the silos that send to it."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Aggregator, Authorizer, authorize
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, Neighbourhood
from silofl.errors import ProtocolError
from silofl.types import Vector

CHUNK_VALUES = 1 << 18
"""Values of a message that move at a time, to each neighbour."""

Weights = NDArray[np.float64]
WeightsOf = Callable[[tuple[int, ...], int], Weights]
"""weights(silos, round) -> (n, n): how much the silo of row i takes of the message of each; of the round."""


@dataclass(frozen=True)
class Exchanged:
    """What came of a round's exchange on one silo.

    Attributes:
        silos: those whose messages were exchanged, ascending.
        total: (m,) float64, the weighted sum of its neighbours' messages.
        weight: its own.
        closed: whether the sum could not be opened, as a silo failed: then there is no total.
    """

    silos: tuple[int, ...]
    total: Vector
    weight: float
    closed: bool = False


@dataclass(frozen=True, eq=False)
class Round:
    """One round's exchange, as every rank knows it for the silos that are there.

    Attributes:
        silos: those that take part, ascending.
        weights: between them.
        me: this silo's place among them; None where it takes no part.
    """

    silos: tuple[int, ...]
    weights: Weights
    me: int | None

    def senders(self, place: int) -> list[int]:
        """Places of the silos that the one at `place` receives from."""
        return [k for k in np.flatnonzero(self.weights[place]).tolist() if k != place]

    def receivers(self, place: int) -> list[int]:
        """Places of the silos that the one at `place` sends to."""
        return [k for k in np.flatnonzero(self.weights[:, place]).tolist() if k != place]

    @property
    def own(self) -> float:
        """This silo's weight of its own message; 1 where it takes no part."""
        return 1.0 if self.me is None else float(self.weights[self.me, self.me])


class NeighbourSums(ABC):
    """Exchanges along the edges of a round's graph; all calls are collective.

    Args:
        group: the ranks.
    """

    def __init__(self, group: ElasticGroup) -> None:
        self._group = group
        self._graphs: dict[bytes, Neighbourhood] = {}
        self._comm: Communicator | None = None

    @property
    def silo(self) -> int:
        """This silo's number."""
        return self._group.silo_id

    @property
    @abstractmethod
    def description(self) -> str:
        """What a neighbour learns, in a few words."""

    @abstractmethod
    def exchange(
        self,
        message: Vector,
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """Send a message (m,), m the same on every rank, to this silo's neighbours in round `number`.

        `weights`, the same on every rank, are asked for the silos that take part. One that fails meanwhile is
        left out: the others are neighbours by the weights of those that are left. The `authorizer` is asked
        before a sum can be read.
        """

    def sum_scalars(self, inner: Aggregator, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """See `Aggregator`; `inner` adds up over all silos."""
        return inner.sum_scalars(values)

    def round(self, weights: WeightsOf, number: int, absent: tuple[int, ...]) -> Round:
        """The round's exchange among the silos that are there now, as this rank sees them; not collective."""
        silos = tuple(silo for silo in self._group.members if silo not in absent)
        me = silos.index(self._group.silo_id) if self._group.silo_id in silos else None
        return Round(silos, weights(silos, number), me)

    def neighbourhood(self, edges: NDArray[np.bool_], silos: tuple[int, ...]) -> Neighbourhood:
        """Collectives along `edges` (n, n), rows receive, among `silos`; made once for each set of edges."""
        comm = self._group.comm
        if self._comm is not comm:  # those of before were revoked with it
            self._comm, self._graphs = comm, {}
        key = np.packbits(edges).tobytes() + repr(silos).encode()
        if key not in self._graphs:
            sources: list[int] = []
            targets: list[int] = []
            if self._group.silo_id in silos:
                ranks, place = [comm.members.index(silo) for silo in silos], silos.index(self._group.silo_id)
                sources = [ranks[k] for k in np.flatnonzero(edges[place])]
                targets = [ranks[k] for k in np.flatnonzero(edges[:, place])]
            self._graphs[key] = comm.neighbourhood(sources, targets)
        return self._graphs[key]

    def close(self) -> None:
        """Release the graphs; collective."""
        if self._comm is self._group.comm:
            for graph in self._graphs.values():
                graph.free()
        self._graphs = {}


class PlainNeighbourSums(NeighbourSums):
    """Messages as they are: each neighbour reads them."""

    @property
    def description(self) -> str:
        """See `NeighbourSums`."""
        return "plain (every neighbour sees the silo's whole model)"

    def exchange(
        self,
        message: Vector,
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """See `NeighbourSums`: sums are in the order of silos, in float64."""

        def work() -> Exchanged:
            now = self.round(weights, number, absent)
            near = self.neighbourhood(off_diagonal(now.weights), now.silos)
            shares = [] if now.me is None else [now.weights[now.me, k] for k in now.senders(now.me)]
            total = np.zeros(len(message))
            for first in pieces(self._group.comm, len(message)):
                part = np.ascontiguousarray(message[first : first + CHUNK_VALUES])
                rows = np.empty((len(shares), len(part)), part.dtype)
                near.allgather(part, rows)
                for row, share in zip(rows, shares, strict=True):
                    total[first : first + len(part)] += share * row
            return Exchanged(now.silos, total, now.own)

        found = self._group.step(work)
        authorize(self._group, authorizer, found.silos)
        return found

    def exchange_packets(
        self,
        packet: bytes,
        read: Callable[[bytes], Vector],
        weights: WeightsOf,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """`exchange` of packets, of any length, of which `read` makes (m,) float64 values each.

        ProtocolError, on every rank, names the silo of one of which it makes none.
        """

        def work() -> Exchanged:
            comm = self._group.comm
            now = self.round(weights, number, absent)
            near = self.neighbourhood(off_diagonal(now.weights), now.silos)
            comm.mark("collect first")
            longest = int(comm.allreduce(np.array([len(packet)]), "max")[0])
            row = np.frombuffer(_padded(packet, longest), np.uint8)
            senders = [] if now.me is None else now.senders(now.me)
            rows = np.empty((len(senders), len(row)), np.uint8)
            near.allgather(row, rows)
            total = np.zeros(len(read(packet)))
            with raise_on_all_ranks(comm):
                for one, place in zip(rows, senders, strict=True):
                    total += now.weights[now.me, place] * _read(read, one.tobytes(), now.silos[place])
            return Exchanged(now.silos, total, now.own)

        found = self._group.step(work)
        authorize(self._group, authorizer, found.silos)
        return found


def pieces(comm: Communicator, length: int) -> Iterator[int]:
    """Where pieces of a message begin; each is a step of the round by name."""
    starts = range(0, length, CHUNK_VALUES)
    for place, first in enumerate(starts):
        last = place == len(starts) - 1
        comm.mark("collect first" if not place else "collect last" if last else "collect middle")
        yield first


def _padded(packet: bytes, longest: int) -> bytes:
    return struct.pack("<Q", len(packet)) + packet.ljust(longest, b"\0")


def _read(read: Callable[[bytes], Vector], row: bytes, silo: int) -> Vector:
    (length,) = struct.unpack_from("<Q", row)
    try:
        values = read(row[8 : 8 + min(length, len(row))])
        if np.isfinite(values).all():
            return values
    except (ValueError, struct.error):
        pass
    raise ProtocolError(
        f"silo {silo}'s packet is none of the codec of [compress]: it runs another version, or the packet "
        "was changed on its way; nothing was made of it",
        sender=silo,
    )


def off_diagonal(weights: Weights) -> NDArray[np.bool_]:
    """Which silos a silo receives from, itself not."""
    edges: NDArray[Any] = weights != 0
    np.fill_diagonal(edges, val=False)
    return edges
