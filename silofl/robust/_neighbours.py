"""Krum's score of a point: how far its nearest neighbours are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl.robust._points import Matrix


def krum_scores(squares: Matrix, neighbours: int) -> NDArray[np.float64]:
    """Sums (r,) of the squared distances (r, r) of each point to its nearest `neighbours` others.

    Blanchard et al. 2017, section 4, has n - f - 2 neighbours, itself not among them.
    """
    others = squares + np.diag(np.full(len(squares), np.inf))
    return np.asarray(np.sort(others, axis=1)[:, :neighbours].sum(axis=1))


def best(scores: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The points of the `count` lowest scores, of equals the first: the smallest numbers, as in the paper."""
    return np.argsort(scores, kind="stable")[:count]
