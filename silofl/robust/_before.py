"""What is done to updates before a rule: clipping, buckets, mixing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from silofl.robust._far import draw
from silofl.robust._points import Matrix, Points


def clipped(points: Points, zero: NDArray[np.float64], f: int) -> Points:
    """The floor(2 f (n - f) / n) longest updates cut to the length of the next (ARC, algorithm 2).

    The points are the first of the vectors, as they are.
    """
    count, lengths = len(points), points.to(zero)
    limit = float(np.sort(lengths)[count - 2 * f * (count - f) // count - 1])
    squares, made_of = points.squares.copy(), points.made_of.copy()
    for index in range(count):
        draw(squares, made_of, index, int(zero.argmax()), limit)
    return Points(points.combinations, squares, made_of)


def buckets(count: int, size: int, rng: np.random.Generator) -> Matrix:
    """Means (ceil(count / size), count) of `size` drawn points each; the last has those that are left."""
    order = rng.permutation(count)
    mixture = np.zeros((math.ceil(count / size), count))
    for number, row in enumerate(mixture):
        members = order[number * size : (number + 1) * size]
        row[members] = 1 / len(members)
    return mixture


def mixed(points: Points, f: int) -> Points:
    """Each point replaced by the mean of the n - f nearest to it, itself among them (NNM, algorithm 2)."""
    count = len(points)
    nearest = np.argsort(points.distances(), axis=1, kind="stable")[:, : count - f]
    mixture = np.zeros((count, count))
    np.put_along_axis(mixture, nearest, 1 / (count - f), axis=1)
    return points.mixed(mixture)
