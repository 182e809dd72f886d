"""Ring: every node has the one before it and the one behind it."""

from dataclasses import dataclass
from typing import final

from silofl.mixing.graphs.base import Edges, Graph, circulant


@final
@dataclass(frozen=True)
class Ring(Graph):
    """The cycle, with two neighbours for every node (Lian et al. 2017)."""

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`."""
        return circulant(len(silos), (1, -1))
