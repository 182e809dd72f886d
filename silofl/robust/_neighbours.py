"""Krum's score of a point: how far its nearest neighbours are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl.robust._points import Matrix


def best_by_neighbours(squares: Matrix, neighbours: int, count: int) -> NDArray[np.intp]:
    """The `count` points of least sums of squared distances (r, r) to their nearest `neighbours` others.

    Blanchard et al. 2017, section 4, has n - f - 2 neighbours, itself not among them. Of equals, such as two
    that are each other's only neighbour, those whose next neighbours are nearer, so that the order of points
    decides only between points that no distance tells apart.
    """
    others = np.sort(squares + np.diag(np.full(len(squares), np.inf)), axis=1)[:, :-1]
    sums = np.cumsum(others, axis=1)[:, neighbours - 1 :]
    return np.lexsort(sums.T[::-1])[:count]
