"""Weighted sums of neighbours' messages, in the clear: each silo's own sum, of the silos that send to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.base import Authorizer, authorize
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator, Neighbourhood
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
    """

    silos: tuple[int, ...]
    total: Vector
    weight: float


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
        weights: of the silos that take part in a round, the same on every rank.
    """

    def __init__(self, group: ElasticGroup, weights: WeightsOf) -> None:
        self._group, self._weights = group, weights
        self._graphs: dict[bytes, Neighbourhood] = {}
        self._comm: Communicator | None = None

    @property
    @abstractmethod
    def description(self) -> str:
        """What a neighbour learns, in a few words."""

    @abstractmethod
    def exchange(
        self,
        message: Vector,
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """Send a message (m,), m the same on every rank, to this silo's neighbours in round `number`.

        A silo that fails meanwhile is left out: the others are neighbours by the weights of those that are
        left. The `authorizer` is asked before a sum can be read.
        """

    def round(self, number: int, absent: tuple[int, ...]) -> Round:
        """The round's exchange among the silos that are there now, as this rank sees them; not collective."""
        silos = tuple(silo for silo in self._group.members if silo not in absent)
        me = silos.index(self._group.silo_id) if self._group.silo_id in silos else None
        return Round(silos, self._weights(silos, number), me)

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
        number: int,
        absent: tuple[int, ...] = (),
        authorizer: Authorizer | None = None,
    ) -> Exchanged:
        """See `NeighbourSums`: sums are in the order of silos, in float64."""

        def work() -> Exchanged:
            now = self.round(number, absent)
            near = self.neighbourhood(off_diagonal(now.weights), now.silos)
            self._group.comm.mark("collect")
            shares = [] if now.me is None else [now.weights[now.me, k] for k in now.senders(now.me)]
            total = np.zeros(len(message))
            for first in range(0, len(message), CHUNK_VALUES):
                part = np.ascontiguousarray(message[first : first + CHUNK_VALUES])
                rows = np.empty((len(shares), len(part)), part.dtype)
                near.allgather(part, rows)
                for row, share in zip(rows, shares, strict=True):
                    total[first : first + len(part)] += share * row
            return Exchanged(now.silos, total, now.own)

        found = self._group.step(work)
        authorize(self._group, authorizer, found.silos)
        return found


def off_diagonal(weights: Weights) -> NDArray[np.bool_]:
    """Which silos a silo receives from, itself not."""
    edges: NDArray[Any] = weights != 0
    np.fill_diagonal(edges, val=False)
    return edges
