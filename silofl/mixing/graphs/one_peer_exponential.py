"""One-peer exponential: one neighbour a round, at 1, 2, 4, ... places in turn."""

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.mixing.graphs.base import Edges, Graph, circulant
from silofl.mixing.graphs.exponential import hops


@final
@dataclass(frozen=True)
class OnePeerExponential(Graph):
    """The time-varying one-peer exponential graph (Ying et al. 2021).

    Of 2^k nodes every k rounds give the exact mean.
    """

    directed: ClassVar[bool] = True

    def period(self, nodes: int) -> int:
        """See `Graph`."""
        return max(1, len(hops(nodes)))

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`."""
        nodes = len(silos)
        return circulant(nodes, hops(nodes)[step % self.period(nodes) :][:1])
