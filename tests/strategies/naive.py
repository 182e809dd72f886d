"""The algorithms in a few plain lines each, over the whole vector and in float64, straight from their papers.

`present` names the silos of each round. All start from zero and take `steps` full-batch steps of size `lr`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Data = tuple[Array, Array]
"""A silo's rows (m, d) and what they should give (m,)."""

FEATURES = 7
SIZES = (9, 14, 30, 21)
ROUNDS = 20


def silos() -> list[Data]:
    """Four unequal silos with different optima; nothing about them is random."""
    made = []
    for silo, size in enumerate(SIZES):
        row, column = np.mgrid[1 : size + 1, 1 : FEATURES + 1]
        x = np.sin(row * column * (1.3 + silo)) + 0.1 * silo
        made.append((x, x @ (np.cos(np.arange(FEATURES) + 0.4 * silo) + silo)))
    return made


ALL = [tuple(range(len(SIZES)))] * ROUNDS
SOME = [tuple(silo for silo in range(len(SIZES)) if (number + 3 * silo) % 7) for number in range(ROUNDS)]
"""Each silo is absent in some rounds."""


def loss(data: Data, x: Array) -> float:
    """Half the mean of the squares of what is missing."""
    a, b = data
    return float(0.5 * np.mean((a @ x - b) ** 2))


def gradient(data: Data, x: Array) -> Array:
    """Of `loss`."""
    a, b = data
    return a.T @ (a @ x - b) / len(b)


def sizes(data: list[Data], here: Sequence[int]) -> list[int]:
    return [len(data[k][1]) for k in here]


def descend(data: Data, x: Array, lr: float, steps: int) -> Array:
    """Plain gradient descent."""
    for _ in range(steps):
        x = x - lr * gradient(data, x)
    return x


def fedavg(
    data: list[Data], present: Any, lr: float, steps: int, *, server_lr: float = 1.0, momentum: float = 0.0
) -> Array:
    """McMahan et al. 2017, algorithm 1; with momentum FedAvgM, Hsu et al. 2019, section 4.3."""
    x, v = np.zeros(FEATURES), np.zeros(FEATURES)
    for here in present:
        local = [descend(data[k], x, lr, steps) for k in here]
        v = momentum * v + (x - np.average(local, axis=0, weights=sizes(data, here)))
        x = x - server_lr * v
    return x


def fedsgd(data: list[Data], present: Any, server_lr: float, momentum: float = 0.0) -> Array:
    """McMahan et al. 2017, section 2: gradient descent on the pooled samples."""
    x, v = np.zeros(FEATURES), np.zeros(FEATURES)
    for here in present:
        pooled = np.concatenate([data[k][0] for k in here]), np.concatenate([data[k][1] for k in here])
        v = momentum * v + gradient(pooled, x)
        x = x - server_lr * v
    return x


def fedprox(data: list[Data], present: Any, lr: float, steps: int, mu: float) -> Array:
    """Li et al. 2020, algorithm 2: silos descend f_k(w) + mu/2 ||w - x||^2."""
    x = np.zeros(FEATURES)
    for here in present:
        local = []
        for k in here:
            w = x
            for _ in range(steps):
                w = w - lr * (gradient(data[k], w) + mu * (w - x))
            local.append(w)
        x = np.average(local, axis=0, weights=sizes(data, here))
    return x


def scaffold(
    data: list[Data], present: Any, lr: float, steps: int, server_lr: float = 1.0
) -> tuple[Array, Array, list[Array]]:
    """Karimireddy et al. 2020, algorithm 1 with option II; the model, c and every c_i."""
    x, c = np.zeros(FEATURES), np.zeros(FEATURES)
    c_i = [np.zeros(FEATURES) for _ in data]
    for here in present:
        dy, dc = [], []
        for i in here:
            y = x
            for _ in range(steps):
                y = y - lr * (gradient(data[i], y) - c_i[i] + c)
            c_plus = c_i[i] - c + (x - y) / (steps * lr)
            dy.append(y - x)
            dc.append(c_plus - c_i[i])
            c_i[i] = c_plus
        x = x + server_lr * np.mean(dy, axis=0)
        c = c + len(here) / len(data) * np.mean(dc, axis=0)
    return x, c, c_i
