"""Mixing matrices, float64 (n, n): row i says how much node i takes of each node's values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl.mixing.graphs.base import Edges

Weights = NDArray[np.float64]


def doubly_stochastic(edges: Edges) -> Weights:
    """Weights whose rows and columns add up to 1: the mean over nodes stays as it is.

    Of edges in both directions those of Metropolis and Hastings, 1 / (1 + max(degree i, degree j)) (Xiao,
    Boyd & Kim 2007); of directed edges 1 / (1 + degree), which takes as many neighbours for every node.

    Raises ValueError for directed edges of other degrees: those take `column_stochastic`.
    """
    received, sent = edges.sum(axis=1), edges.sum(axis=0)
    if not np.array_equal(edges, edges.T) and len({*received.tolist(), *sent.tolist()}) != 1:
        raise ValueError("edges in one direction with unequal numbers of neighbours have no such weights")
    weights = np.where(edges, 1.0 / (1.0 + np.maximum(received[:, None], sent[None, :])), 0.0)
    return _with_own(weights, weights.sum(axis=1))


def column_stochastic(edges: Edges) -> Weights:
    """Weights whose columns add up to 1: a node gives all it has, in equal parts (Assran et al. 2019)."""
    weights = np.where(edges, 1.0 / (1.0 + edges.sum(axis=0)[None, :]), 0.0)
    return _with_own(weights, weights.sum(axis=0))


def _with_own(weights: Weights, given: Weights) -> Weights:
    np.fill_diagonal(weights, 1.0 - given)
    return weights
