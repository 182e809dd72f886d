"""Erdos-Renyi: every pair of nodes by a coin, drawn once."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.constrained import Fraction
from silofl.mixing.graphs.base import Edges, Graph, reaches_all

TRIES = 1000


@final
@dataclass(frozen=True)
class ErdosRenyi(Graph):
    """A random graph G(n, p) (Erdos & Renyi 1959), drawn again until it is connected."""

    probability: Fraction = 0.5
    """Of each pair of nodes, with which it is an edge; 0.5 when unset."""

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`. ValueError where no draw is connected."""
        nodes = len(silos)
        rng = np.random.default_rng([seed, nodes])
        for _ in range(TRIES):
            upper = np.triu(rng.random((nodes, nodes)) < self.probability, 1)
            edges = upper | upper.T
            if reaches_all(edges):
                return np.asarray(edges, bool)
        raise ValueError(
            f"topology.probability = {self.probability:g} and {nodes} silos: none of {TRIES} random graphs "
            "was connected: raise it"
        )
