"""Exponential: every node sends 1, 2, 4, ... places on."""

from dataclasses import dataclass
from typing import ClassVar, final

from silofl.mixing.graphs.base import Edges, Graph, circulant


def hops(nodes: int) -> tuple[int, ...]:
    """1, 2, 4, ... below the number of nodes: ceil(log2 n) of them."""
    return tuple(1 << k for k in range(max(nodes - 1, 0).bit_length()))


@final
@dataclass(frozen=True)
class Exponential(Graph):
    """The static exponential graph (Ying et al. 2021): directed, ceil(log2 n) neighbours for each node."""

    directed: ClassVar[bool] = True

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`."""
        return circulant(len(silos), hops(len(silos)))
