"""Vectors drawn nearer on a line, in terms of squared distances alone."""

from __future__ import annotations

import numpy as np

from silofl.robust._points import Matrix

REACH = 1e6
"""Times the median distance of the updates from the one that is nearest to most."""


def draw(squares: Matrix, made_of: Matrix, index: int, toward: int, length: float) -> None:
    """Draw vector `index` to another until it is `length` away from it; both matrices change in place.

    Squared distances (m, m) of points on a line follow from those that are known. Where they are lost to
    rounding, the inner product is cut to what two vectors of such lengths can have. `made_of` (m, m) has the
    coefficients of what each vector is made of.
    """
    before, away = np.sqrt(squares[toward, index]), np.sqrt(squares[toward])
    if not before > length:
        return
    part, most = length / before, 2 * before * away
    twice = np.clip(before**2 + away**2 - squares[index], -most, most)
    row = np.maximum(length**2 + away**2 - part * twice, 0.0)
    row[index] = 0.0
    squares[index], squares[:, index] = row, row
    made_of[index] = part * made_of[index] + (1 - part) * made_of[toward]


def drawn_near(squares: Matrix, count: int) -> tuple[Matrix, Matrix]:
    """Squared distances (m, m) with those of `count` updates that are beyond `REACH` drawn near.

    Rounding of their distances would drown all others'. They are drawn in their own direction to the update
    that is nearest to most. What a rule gives moves by 1 / `REACH` of the others' distances where it depends
    on that direction, as a geometric median does.

    Returns distances, and coefficients (m, m) of what each vector is made of.
    """
    drawn, made_of = squares.copy(), np.eye(len(squares))
    middle = int(np.median(squares[:count, :count], axis=1).argmin())
    limit = REACH * float(np.sqrt(np.median(squares[middle, :count])))
    for index in range(count if limit else 0):
        draw(drawn, made_of, index, middle, limit)
    return drawn, made_of
