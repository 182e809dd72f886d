"""Points so far away that rounding of their distances would drown all others': drawn near."""

from __future__ import annotations

import numpy as np

from silofl.robust._points import Matrix, Points

REACH = 1e6
"""Times the median distance of the points from the one that is nearest to most."""


def drawn_near(points: Points) -> tuple[Points, Matrix]:
    """The points, with those beyond `REACH` drawn to it in their own direction, and what they are made of.

    Squared distances of points drawn on a line through another follow from those that are known (Stewart's
    theorem). The geometric median moves by 1 / `REACH` of the others' distances at most. Returns points of
    their own (r, r), and combinations (r, m) of the vectors that were measured.
    """
    distances = points.distances()
    middle = int(np.median(distances, axis=1).argmin())
    limit = REACH * float(np.median(distances[middle]))
    squares, back = distances**2, points.combinations.copy()
    for far in np.flatnonzero(distances[middle] > limit) if limit else ():
        part, length = limit / distances[middle, far], distances[middle, far]
        across = part * np.clip(squares[far] - length**2, -2 * length * distances[middle], None)
        drawn = np.maximum((1 - part) * squares[middle] + across + limit**2, 0.0)
        drawn[far] = 0.0
        squares[far], squares[:, far] = drawn, drawn
        back[far] = (1 - part) * points.combinations[middle] + part * points.combinations[far]
    return Points(np.eye(len(points)), squares), back
