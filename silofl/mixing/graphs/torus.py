"""Torus: a grid whose rows and columns are rings."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.mixing.graphs.base import Edges, Graph, circulant


def grid(nodes: int) -> tuple[int, int]:
    """Rows and columns that are nearest to a square; one row for a prime number."""
    rows = next(rows for rows in range(math.isqrt(nodes), 0, -1) if nodes % rows == 0)
    return rows, nodes // rows


@final
@dataclass(frozen=True)
class Torus(Graph):
    """The two-dimensional torus that is nearest to a square, row by row; of a prime number the ring."""

    def edges(self, silos: tuple[int, ...], step: int, seed: int) -> Edges:
        """See `Graph`."""
        rows, columns = grid(len(silos))
        along = np.kron(np.eye(rows, dtype=bool), circulant(columns, (1, -1)))
        across = np.kron(circulant(rows, (1, -1)), np.eye(columns, dtype=bool))
        return np.asarray(along | across, bool)
