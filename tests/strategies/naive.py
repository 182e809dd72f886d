"""The algorithms in a few plain lines each, over the whole vector and in float64, straight from their papers.

`present` names the silos of each round. All start from zero and take `steps` full-batch steps of size `lr`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Data = tuple[Array, NDArray[np.int64]]
"""A silo's rows (m, INPUTS) and their classes (m,)."""

INPUTS, CLASSES = 5, 3
SIZE = CLASSES * INPUTS
"""Values of the model: of softmax regression without a bias, a row for each class."""
SIZES = (9, 14, 30, 21)
ROUNDS = 20


def silos() -> list[Data]:
    """Four unequal silos with different optima; nothing about them is random."""
    made = []
    for silo, size in enumerate(SIZES):
        row, column = np.mgrid[1 : size + 1, 1 : INPUTS + 1]
        x = np.sin(row * column * (1.3 + silo)) + 0.3 * np.cos(silo + np.arange(INPUTS))
        scores = x @ np.cos(np.outer(np.arange(1, INPUTS + 1), np.arange(1, CLASSES + 1)) + 0.9 * silo)
        made.append((x, scores.argmax(1)))
    return made


ALL = [tuple(range(len(SIZES)))] * ROUNDS
SOME = [tuple(silo for silo in range(len(SIZES)) if (number + 3 * silo) % 7) for number in range(ROUNDS)]
"""Each silo is absent in some rounds."""


def probabilities(data: Data, x: Array) -> Array:
    """Of each class, for every row."""
    scores = data[0] @ x.reshape(CLASSES, INPUTS).T
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def loss(data: Data, x: Array) -> float:
    """The mean cross entropy."""
    return float(-np.log(probabilities(data, x)[np.arange(len(data[1])), data[1]]).mean())


def gradient(data: Data, x: Array) -> Array:
    """Of `loss`."""
    missed = probabilities(data, x) - np.eye(CLASSES)[data[1]]
    return (missed.T @ data[0]).ravel() / len(data[1])


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
    x, v = np.zeros(SIZE), np.zeros(SIZE)
    for here in present:
        local = [descend(data[k], x, lr, steps) for k in here]
        v = momentum * v + (x - np.average(local, axis=0, weights=sizes(data, here)))
        x = x - server_lr * v
    return x


def fedsgd(data: list[Data], present: Any, server_lr: float, momentum: float = 0.0) -> Array:
    """McMahan et al. 2017, section 2: gradient descent on the pooled samples."""
    x, v = np.zeros(SIZE), np.zeros(SIZE)
    for here in present:
        pooled = np.concatenate([data[k][0] for k in here]), np.concatenate([data[k][1] for k in here])
        v = momentum * v + gradient(pooled, x)
        x = x - server_lr * v
    return x


def fedprox(data: list[Data], present: Any, lr: float, steps: int, mu: float) -> Array:
    """Li et al. 2020, algorithm 2: silos descend f_k(w) + mu/2 ||w - x||^2."""
    x = np.zeros(SIZE)
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
    data: list[Data], present: Any, lr: float, steps: int, server_lr: float = 1.0, option: str = "II"
) -> tuple[Array, Array, list[Array]]:
    """Karimireddy et al. 2020, algorithm 1; the model, c and every c_i."""
    x, c = np.zeros(SIZE), np.zeros(SIZE)
    c_i = [np.zeros(SIZE) for _ in data]
    for here in present:
        dy, dc = [], []
        for i in here:
            y = x
            for _ in range(steps):
                y = y - lr * (gradient(data[i], y) - c_i[i] + c)
            c_plus = gradient(data[i], x) if option == "I" else c_i[i] - c + (x - y) / (steps * lr)
            dy.append(y - x)
            dc.append(c_plus - c_i[i])
            c_i[i] = c_plus
        x = x + server_lr * np.mean(dy, axis=0)
        c = c + len(here) / len(data) * np.mean(dc, axis=0)
    return x, c, c_i


def qfedavg(data: list[Data], present: Any, lr: float, steps: int, q: float, lipschitz: float) -> Array:
    """Li et al. 2020 (q-FFL), algorithm 2."""
    w = np.zeros(SIZE)
    for here in present:
        delta, h = np.zeros(SIZE), 0.0
        for k in here:
            f = loss(data[k], w)
            dw = lipschitz * (w - descend(data[k], w, lr, steps))
            delta = delta + f**q * dw
            h += q * f ** (q - 1) * float(dw @ dw) + lipschitz * f**q
        w = w - delta / h
    return w


def moon(
    data: list[Data], present: Any, lr: float, steps: int, mu: float, tau: float
) -> tuple[Array, list[Array | None]]:
    """Li, He and Song 2021, algorithm 1; the model, and each silo's last. A sample's scores represent it.

    Before its first round a silo has no model of its own, and no contrast.
    """
    w, last = np.zeros(SIZE), list[Array | None]([None] * len(data))
    for here in present:
        local = []
        for k in here:
            x, previous = w, last[k]
            for _ in range(steps):
                pull = np.zeros(SIZE) if previous is None else contrast(data[k][0], x, w, previous, tau)
                x = x - lr * (gradient(data[k], x) + mu * pull)
            last[k] = x
            local.append(x)
        w = np.average(local, axis=0, weights=sizes(data, here))
    return w, last


def contrast(rows: Array, x: Array, w: Array, previous: Array, tau: float) -> Array:
    """Gradient at x of the mean of -log(G / (G + P)), G = e^(sim(z, g) / tau) and P = e^(sim(z, p) / tau)."""
    total = np.zeros((CLASSES, INPUTS))
    for row in rows:
        z, g, p = (one.reshape(CLASSES, INPUTS) @ row for one in (x, w, previous))
        (of_g, to_g), (of_p, to_p) = cosine(z, g), cosine(z, p)
        part = np.exp(of_p / tau) / (np.exp(of_g / tau) + np.exp(of_p / tau))
        total += np.outer(part * (to_p - to_g) / tau, row)
    return total.ravel() / len(rows)


def cosine(z: Array, a: Array) -> tuple[float, Array]:
    """sim(z, a), and its gradient by z."""
    norms = np.sqrt(z @ z) * np.sqrt(a @ a)
    return float(z @ a / norms), a / norms - (z @ a) * z / (norms * (z @ z))


def diloco(data: list[Data], present: Any, lr: float, steps: int, server_lr: float, momentum: float) -> Array:
    """Douillard et al. 2023, algorithm 1: the outer optimizer is SGD with Nesterov's momentum, as torch's."""
    x, v = np.zeros(SIZE), np.zeros(SIZE)
    for here in present:
        g = x - np.mean([descend(data[k], x, lr, steps) for k in here], axis=0)
        v = momentum * v + g
        x = x - server_lr * (g + momentum * v)
    return x


def streaming_diloco(
    data: list[Data],
    present: Any,
    lr: float,
    steps: int,
    parts: Sequence[slice],
    *,
    delay: int,
    alpha: float,
    server_lr: float,
    momentum: float,
    back: tuple[int, int, int] = (-1, 0, 0),
) -> Array:
    """Douillard et al. 2025, algorithm 2, with H = steps * len(parts).

    A silo begins with the shared model, and one that was away takes up what was summed meanwhile. `back`: a
    silo, the round, from 1, that it takes part in again, and that at whose end it had the model with which it
    goes on; 0: the shared one.
    """
    x, v, own = np.zeros(SIZE), np.zeros(SIZE), [np.zeros(SIZE) for _ in data]
    missed: list[set[int]] = [set() for _ in data]
    kept, met = dict[tuple[int, int], Array](), set[int]()
    for number, here in enumerate(present, 1):
        turn = (number - 1) % len(parts)
        part, taken = parts[turn], []
        for k in here:
            if k not in met:
                own[k], missed[k] = x.copy(), set()
            met.add(k)
            if (k, number) == back[:2]:
                own[k] = kept[k, back[2]].copy() if back[2] else x.copy()
                missed[k] = {(earlier - 1) % len(parts) for earlier in range(back[2], number)}
            for one in missed[k]:
                own[k][parts[one]] = alpha * own[k][parts[one]] + (1 - alpha) * x[parts[one]]
            missed[k] = set()
            states = [own[k]]
            for _ in range(steps):
                states.append(states[-1] - lr * gradient(data[k], states[-1]))
            taken.append(states[steps - delay][part])
            own[k] = states[-1].copy()
            kept[k, number] = own[k].copy()
        g = x[part] - np.mean(taken, axis=0)
        v[part] = momentum * v[part] + g
        x[part] = x[part] - server_lr * (g + momentum * v[part])
        for k in range(len(data)):
            missed[k].add(turn)
    return x


def adaptive(
    data: list[Data],
    present: Any,
    lr: float,
    steps: int,
    kind: str,
    *,
    eta: float,
    beta1: float,
    beta2: float,
    tau: float,
    initial: float,
) -> Array:
    """Reddi et al. 2021, algorithm 2, whose v begins at initial^2."""
    x, m, v = np.zeros(SIZE), np.zeros(SIZE), np.full(SIZE, initial**2)
    for here in present:
        local = [descend(data[k], x, lr, steps) - x for k in here]
        delta = np.average(local, axis=0, weights=sizes(data, here))
        m = beta1 * m + (1 - beta1) * delta
        if kind == "fedadagrad":
            v = v + delta**2
        elif kind == "fedyogi":
            v = v - (1 - beta2) * delta**2 * np.sign(v - delta**2)
        else:
            v = beta2 * v + (1 - beta2) * delta**2
        x = x + eta * m / (np.sqrt(v) + tau)
    return x


def fednova(
    data: list[Data], present: Any, lr: float, steps: Sequence[int], momentum: float, server_lr: float = 1.0
) -> Array:
    """Wang et al. 2020, equations 7 to 10: d_i = G_i a_i / |a_i|_1, x -= tau_eff sum p_i lr d_i.

    `steps` are those of each silo.
    """
    x = np.zeros(SIZE)
    for here in present:
        p = np.array(sizes(data, here)) / sum(sizes(data, here))
        directions, lengths = [], []
        for k in here:
            a = [(1 - momentum ** (steps[k] - j)) / (1 - momentum) for j in range(steps[k])]
            y, buffer, whole = x, np.zeros(SIZE), np.zeros(SIZE)
            for weight in a:
                g = gradient(data[k], y)
                whole = whole + weight * g
                buffer = momentum * buffer + g
                y = y - lr * buffer
            np.testing.assert_allclose(x - y, lr * whole, atol=1e-12)  # that a is what momentum does
            directions.append(whole / sum(a))
            lengths.append(sum(a))
        tau_eff = float(p @ lengths)
        x = x - server_lr * tau_eff * lr * (p @ np.array(directions))
    return x


def feddyn(data: list[Data], present: Any, lr: float, steps: int, alpha: float) -> tuple[Array, Array]:
    """Acar et al. 2021, algorithm 1; the model and h. Silos descend instead of minimizing."""
    x, h = np.zeros(SIZE), np.zeros(SIZE)
    g = [np.zeros(SIZE) for _ in data]
    for here in present:
        local = []
        for k in here:
            y = x
            for _ in range(steps):
                y = y - lr * (gradient(data[k], y) - g[k] + alpha * (y - x))
            g[k] = g[k] - alpha * (y - x)
            local.append(y)
        h = h - alpha / len(data) * np.sum([y - x for y in local], axis=0)
        x = np.mean(local, axis=0) - h / alpha
    return x, h


def fedexp(
    data: list[Data], present: Any, lr: float, steps: int, epsilon: float
) -> tuple[Array, list[float]]:
    """Jhunjhunwala et al. 2023, algorithm 1; the model and the server's rates."""
    x, rates = np.zeros(SIZE), list[float]()
    for here in present:
        deltas = [x - descend(data[k], x, lr, steps) for k in here]
        mean = np.mean(deltas, axis=0)
        below = 2 * len(here) * (mean @ mean + epsilon)
        rates.append(max(1.0, sum(float(d @ d) for d in deltas) / below))
        x = x - rates[-1] * mean
    return x, rates


def ifca(
    data: list[Data], present: Any, lr: float, steps: int, starts: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """Ghosh et al. 2020, algorithm 1, model averaging. The models, and of each silo the one that suits it."""
    models = list(starts)

    def best(k: int) -> int:
        return int(np.argmin([loss(data[k], one) for one in models]))

    for here in present:
        choice = {k: best(k) for k in here}
        trained = {k: descend(data[k], models[choice[k]], lr, steps) for k in here}
        for cluster in range(len(models)):
            takers = [k for k in here if choice[k] == cluster]
            if takers:
                mine = [trained[k] for k in takers]
                models[cluster] = np.average(mine, axis=0, weights=sizes(data, takers))
    return models, [models[best(k)] for k in range(len(data))]
