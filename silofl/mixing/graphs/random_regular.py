"""Random regular: as many neighbours for every node, drawn once."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.constrained import PositiveInt
from silofl.mixing.graphs.base import Edges, Graph, reaches_all

TRIES = 1000


@final
@dataclass(frozen=True)
class RandomRegular(Graph):
    """A random regular graph, connected: a union of random cycles and, for an odd degree, a random matching.

    Where silos were lost, and their number and the degree are odd, one node has a neighbour less.
    """

    degree: PositiveInt = 4
    """Neighbours of each node; 4 when unset."""

    def refusal(self, silos: int) -> str | None:
        """See `Graph`."""
        if 2 <= self.degree < silos:
            if self.degree * silos % 2 == 0:
                return None
            return (
                f"topology.degree = {self.degree} and {silos} silos: an odd number of nodes cannot "
                f"have an odd number of neighbours each: set it to {self.degree - 1} or {self.degree + 1}"
            )
        return (
            f"topology.degree = {self.degree} and {silos} silos: a connected graph has 2 neighbours for each "
            f"node at least, and {silos - 1} at most: set it between"
        )

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`; where too few silos are left for the degree, the complete graph."""
        nodes = len(silos)
        if nodes <= self.degree + 1:
            return ~np.eye(nodes, dtype=bool)
        rng = np.random.default_rng([seed, nodes])
        for _ in range(TRIES):
            edges = self._drawn(nodes, rng)
            if int(edges.sum()) == self.degree * nodes - (self.degree * nodes) % 2:
                return edges
        raise ValueError(
            f"topology.degree = {self.degree} and {nodes} silos: {TRIES} draws gave no regular graph: "
            'lower it, or set topology.graph = "complete"'
        )

    def _drawn(self, nodes: int, rng: np.random.Generator) -> Edges:
        """Cycles and a matching that have edges in common are fewer edges."""
        edges = np.zeros((nodes, nodes), bool)
        for _ in range(self.degree // 2):
            order = rng.permutation(nodes)
            edges[order, np.roll(order, 1)] = True
        if self.degree % 2:
            pairs = rng.permutation(nodes)[: nodes // 2 * 2].reshape(-1, 2)
            edges[pairs[:, 0], pairs[:, 1]] = True
        edges |= edges.T
        assert reaches_all(edges), "a cycle joins all nodes"
        return edges
