"""Robust rules straight from their papers, over whole vectors, in plain NumPy: x (n, d), f attackers."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

Array = Any


def median(x: Array, f: int) -> Array:
    return np.median(x, axis=0)


def trimmed_mean(x: Array, f: int) -> Array:
    return np.sort(x, axis=0)[f : len(x) - f].mean(axis=0)


def mean_around_median(x: Array, f: int) -> Array:
    nearest = np.argsort(np.abs(x - np.median(x, axis=0)), axis=0)[: len(x) - f]
    return np.take_along_axis(x, nearest, 0).mean(axis=0)


def scores(x: Array, neighbours: int) -> list[list[float]]:
    """Of each its score, then those with one neighbour more each."""
    far = [sorted(float(((a - b) ** 2).sum()) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)]
    return [[sum(one[:count]) for count in range(neighbours, len(x))] for one in far]


def best(x: Array, neighbours: int, count: int) -> list[int]:
    found = scores(x, neighbours)
    return sorted(range(len(x)), key=lambda i: found[i])[:count]


def krum(x: Array, f: int) -> Array:
    return x[best(x, len(x) - f - 2, 1)[0]]


def multi_krum(x: Array, f: int) -> Array:
    return x[best(x, len(x) - f - 2, len(x) - f)].mean(axis=0)


def bulyan(x: Array, f: int) -> Array:
    left, chosen = list(x), []
    for _ in range(len(x) - 2 * f):
        chosen.append(left.pop(best(np.array(left), max(1, len(left) - f - 2), 1)[0]))
    return mean_around_median(np.array(chosen), 2 * f)


def geometric_median(x: Array, f: int) -> Array:
    """By Newton's method on the sum of distances, of points none of which is the median."""
    z = x.mean(axis=0)
    for _ in range(100):
        away = z - x
        length = np.linalg.norm(away, axis=1)[:, None]
        unit = away / length
        hessian = sum(
            (np.eye(len(z)) - np.outer(u, u)) / one for u, one in zip(unit, length[:, 0], strict=True)
        )
        step, here = np.linalg.solve(hessian, unit.sum(axis=0)), length.sum()
        while np.linalg.norm(z - step - x, axis=1).sum() > here and np.linalg.norm(step) > 1e-15:
            step = step / 2
        z = z - step
    return z


def centered_clipping(x: Array, f: int) -> Array:
    v, radius = np.zeros(x.shape[1]), float(np.median(np.linalg.norm(x, axis=1)))
    return v + np.mean([(a - v) * min(1.0, radius / np.linalg.norm(a - v)) for a in x], axis=0)


def mda(x: Array, f: int) -> Array:
    def diameter(chosen: tuple[int, ...]) -> float:
        return max(float(np.linalg.norm(x[i] - x[j])) for i in chosen for j in chosen)

    return x[list(min(combinations(range(len(x)), len(x) - f), key=diameter))].mean(axis=0)


def smea(x: Array, f: int) -> Array:
    def largest(chosen: tuple[int, ...]) -> float:
        return float(np.linalg.eigvalsh(np.cov(x[list(chosen)].T, bias=True))[-1])

    return x[list(min(combinations(range(len(x)), len(x) - f), key=largest))].mean(axis=0)


def caf(x: Array, f: int) -> Array:
    c, least, found = np.ones(len(x)), np.inf, x.mean(axis=0)
    while c.sum() > len(x) - 2 * f:
        mean = c @ x / c.sum()
        values, vectors = np.linalg.eigh((c[:, None] * (x - mean)).T @ (x - mean) / c.sum())
        if values[-1] < least:
            least, found = values[-1], mean
        t = ((x - mean) @ vectors[:, -1]) ** 2
        c = c * (1 - t / t[c > 0].max())
    return found


def norm_bounding(x: Array, f: int) -> Array:
    lengths = np.linalg.norm(x, axis=1)
    return (x * np.minimum(1, np.median(lengths) / lengths)[:, None]).mean(axis=0)


def distance_filter(x: Array, f: int, sent: Array = None) -> Array:
    away = np.linalg.norm(x - np.median(x if sent is None else sent, axis=0), axis=1)
    deviation = 1.482602218505602 * np.median(np.abs(away - np.median(away)))
    return x[away <= np.median(away) + 3 * deviation].mean(axis=0)


def root_trust(x: Array, f: int) -> Array:
    root, others = x[0], x[1:]
    lengths = np.linalg.norm(others, axis=1)
    trust = np.maximum(0, others @ root / lengths / np.linalg.norm(root))
    scaled = others / lengths[:, None] * np.linalg.norm(root)
    return (trust[:, None] * scaled).sum(axis=0) / trust.sum()


def mix(x: Array, f: int) -> Array:
    return np.array([x[np.argsort(((x - a) ** 2).sum(axis=1))[: len(x) - f]].mean(axis=0) for a in x])


def clip(x: Array, f: int) -> Array:
    n, lengths = len(x), np.linalg.norm(x, axis=1)
    limit = sorted(lengths)[n - int(2 * f / n * (n - f)) - 1]
    return x * np.minimum(1, limit / lengths)[:, None]


def bucket(x: Array, size: int, rng: np.random.Generator) -> Array:
    order = rng.permutation(len(x))
    return np.array([x[order[k : k + size]].mean(axis=0) for k in range(0, len(x), size)])
