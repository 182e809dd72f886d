"""The personal methods in a few plain lines each, in float64, straight from their papers.

As in `tests/strategies/naive.py`: all start from zero, and take `steps` full-batch steps of size `lr`. Each
gives the shared model, and every silo's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.strategies.naive import CLASSES, INPUTS, SIZE, Array, Data, descend, gradient, sizes

Models = tuple[Array, list[Array]]


def mean(data: list[Data], here: Any, local: list[Array]) -> Array:
    """Weighted by samples."""
    return np.asarray(np.average(local, axis=0, weights=sizes(data, here)))


def finetune(data: list[Data], present: Any, lr: float, steps: int, epochs: int, own_lr: float) -> Models:
    """FedAvg, and gradient descent by each silo at the end."""
    w = np.zeros(SIZE)
    for here in present:
        w = mean(data, here, [descend(data[k], w, lr, steps) for k in here])
    return w, [descend(one, w, own_lr, epochs) for one in data]


def ditto(data: list[Data], present: Any, lr: float, steps: int, mu: float, own_steps: int) -> Models:
    """Li et al. 2021, algorithm 1."""
    w = np.zeros(SIZE)
    v: list[Array | None] = [None] * len(data)
    for here in present:
        for k in here:
            own = w if v[k] is None else v[k]
            for _ in range(own_steps):
                own = own - lr * (gradient(data[k], own) + mu * (own - w))
            v[k] = own
        w = mean(data, here, [descend(data[k], w, lr, steps) for k in here])
    return w, [w if own is None else own for own in v]


def mrmtl(data: list[Data], present: Any, lr: float, steps: int, mu: float) -> Models:
    """Liu et al. 2022, section 4: own models, held near their mean."""
    w = np.zeros(SIZE)
    v: list[Array | None] = [None] * len(data)
    for here in present:
        for k in here:
            own = w if v[k] is None else v[k]
            for _ in range(steps):
                own = own - lr * (gradient(data[k], own) + mu * (own - w))
            v[k] = own
        w = mean(data, here, [v[k] for k in here])  # type: ignore[misc]
    return w, [w if own is None else own for own in v]


def apfl(
    data: list[Data], present: Any, lr: float, steps: int, alpha: float, *, adaptive: bool
) -> tuple[Array, list[Array], list[float]]:
    """Deng et al. 2020, algorithm 1; alpha by equation 10 in a round's first step. Mixtures, alphas."""
    w, alphas = np.zeros(SIZE), [alpha] * len(data)
    v = [np.zeros(SIZE) for _ in data]
    for here in present:
        local = []
        for k in here:
            mine = w
            for step in range(steps):
                a = alphas[k]
                g = gradient(data[k], a * v[k] + (1 - a) * mine)
                if adaptive and step == 0:
                    alphas[k] = float(np.clip(a - lr * g @ (v[k] - mine), 0, 1))
                v[k] = v[k] - lr * a * g
                mine = mine - lr * gradient(data[k], mine)
            local.append(mine)
        w = mean(data, here, local)
    return w, [a * own + (1 - a) * w for a, own in zip(alphas, v, strict=True)], alphas


def pfedme(
    data: list[Data], present: Any, lr: float, steps: int, mu: float, inner: int, inner_lr: float
) -> Models:
    """Dinh et al. 2020, algorithm 1 with beta = 1; theta goes on from batch to batch."""
    w, own = np.zeros(SIZE), [np.zeros(SIZE) for _ in data]
    for here in present:
        local = []
        for k in here:
            mine, theta = w, w
            for _ in range(steps):
                for _ in range(inner):
                    theta = theta - inner_lr * (gradient(data[k], theta) + mu * (theta - mine))
                mine = mine - lr * mu * (mine - theta)
            own[k] = theta
            local.append(mine)
        w = mean(data, here, local)
    return w, own


def hessian(data: Data, x: Array) -> Array:
    """Of the loss of softmax regression, (SIZE, SIZE), from its formula."""
    scores = data[0] @ x.reshape(CLASSES, INPUTS).T
    raised = np.exp(scores - scores.max(1, keepdims=True))
    p = raised / raised.sum(1, keepdims=True)
    blocks = p[:, :, None] * np.eye(CLASSES) - p[:, :, None] * p[:, None, :]
    whole = np.einsum("nab,ni,nj->aibj", blocks, data[0], data[0]) / len(p)
    return np.asarray(whole.reshape(SIZE, SIZE))


def perfedavg(
    data: list[Data], present: Any, lr: float, steps: int, inner_lr: float, *, second_order: bool
) -> Models:
    """Fallah et al. 2020, algorithm 1 with exact Hessians, or without them (FO)."""
    w = np.zeros(SIZE)
    for here in present:
        local = []
        for k in here:
            mine = w
            for _ in range(steps):
                g = gradient(data[k], mine - inner_lr * gradient(data[k], mine))
                if second_order:
                    g = g - inner_lr * hessian(data[k], mine) @ g
                mine = mine - lr * g
            local.append(mine)
        w = mean(data, here, local)
    return w, [descend(one, w, inner_lr, 1) for one in data]


def parts(
    data: list[Data], present: Any, lr: float, steps: int, own: slice, head_steps: int | None
) -> Models:
    """FedPer (Arivazhagan et al. 2019), or with `head_steps` FedRep (Collins et al. 2021); `own` stays."""
    w, kept = np.zeros(SIZE), [np.zeros(SIZE) for _ in data]
    head = np.zeros(SIZE)
    head[own] = 1
    for here in present:
        local = []
        for k in here:
            mine = np.where(head > 0, kept[k], w)
            if head_steps is not None:
                for _ in range(head_steps):
                    mine = mine - lr * head * gradient(data[k], mine)
            moving = np.ones(SIZE) if head_steps is None else 1 - head
            for _ in range(steps):
                mine = mine - lr * moving * gradient(data[k], mine)
            kept[k] = mine
            local.append(mine)
        w = mean(data, here, local)
    return np.where(head > 0, 0, w), [np.where(head > 0, one, w) for one in kept]
