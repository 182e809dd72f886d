"""Decentralized learning in one process: a mixing matrix times the models of all nodes, from the papers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
"""(n, d): the values of every node."""
Gradient = Callable[[Rows], Rows]


def dpsgd(start: Rows, weights: Callable[[int], Rows], gradient: Gradient, lr: float, rounds: int) -> Rows:
    """Lian et al. 2017, of one local step."""
    x = start
    for t in range(rounds):
        x = weights(t) @ (x - lr * gradient(x))
    return x


def gradient_tracking(
    start: Rows, weights: Callable[[int], Rows], gradient: Gradient, lr: float, rounds: int, steps: int = 1
) -> Rows:
    """Liu, Lin, Koloskova & Stich 2023, algorithm 1."""
    x, c = start, np.zeros_like(start)
    for t in range(rounds):
        y = x
        for _ in range(steps):
            y = y - lr * (gradient(y) + c)
        z = (x - y) / (steps * lr)
        c = c - z + weights(t) @ z
        x = weights(t) @ (x - steps * lr * z)
    return x


def push_sum(start: Rows, weights: Callable[[int], Rows], gradient: Gradient, lr: float, rounds: int) -> Rows:
    """Assran et al. 2019, algorithm 1."""
    x, w = start, np.ones((len(start), 1))
    for t in range(rounds):
        x = x - lr * gradient(x / w)
        x, w = weights(t) @ x, weights(t) @ w
    return x / w


def choco(
    start: Rows,
    weights: Rows,
    gradient: Gradient,
    lr: float,
    rounds: int,
    gamma: float,
    compress: Callable[[Any, int], Any],
) -> Rows:
    """Koloskova, Stich & Jaggi 2019, algorithm 2, with a copy of every node's values, first of node 0's."""
    x, copies = start, np.tile(start[0], (len(start), 1))
    for t in range(rounds):
        y = x - lr * gradient(x)
        copies = copies + np.array([compress(row, t) for row in y - copies])
        x = y + gamma * (weights @ copies - copies)
    return x
