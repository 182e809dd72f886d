"""Scores of updates: how far each is from the others, by sums over slices alone.

A slice's part is the matrix of squared distances between the updates, their coordinate median and zero, which
are n + 2 vectors. Parts are added up over slices, and norms, cosines and distances follow from the sum, by
operations that give the same bits on every processor: no logarithm, no BLAS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silofl.types import Vector

Numbers = NDArray[np.float64]
MAD_TO_DEVIATION = 1.4826
"""Of a normal distribution the standard deviation over the median absolute deviation."""
LEAST_SPREAD = 0.2
"""Norms and distances are taken to spread by this part of their median at least."""
LEAST_COSINE_SPREAD = 0.05
"""And cosines by so much."""


@dataclass(frozen=True)
class Score:
    """What is seen of one silo's update of one round.

    Attributes:
        norm: its Euclidean length.
        cosine: with the coordinate median of the updates; 0 where one of the two is zero.
        distance: the median of its distances to the other updates.
        rank: of that distance among all silos, from 1, the nearest.
        deviation: the largest of its three robust deviations from what is usual: of a norm or a distance that
            is larger, of a cosine that is smaller. Infinite where the update has values that are not finite.
        why: which of them that is, for people.
    """

    norm: float
    cosine: float
    distance: float
    rank: int
    deviation: float
    why: str

    def shown(self) -> dict[str, float | None]:
        """Its numbers for people and the audit trail, of six digits; None for one that is not finite."""
        numbers = (self.norm, self.cosine, self.distance, float(self.rank), self.deviation)
        names = ("norm", "cosine", "distance", "rank", "deviation")
        return {
            name: float(f"{one:.6g}") if math.isfinite(one) else None
            for name, one in zip(names, numbers, strict=True)
        }

    @property
    def finite(self) -> bool:
        """Whether all values of the update are."""
        return math.isfinite(self.deviation)


NOT_FINITE = Score(math.nan, math.nan, math.nan, 0, math.inf, "values that are not finite")


def part_of(rows: Sequence[Vector], usual: Sequence[int]) -> Numbers:
    """A slice's part, float64 ((n + 2)^2,): squared distances of rows (k,), their median, and zero.

    The median is over the rows `usual`, those of silos that are not excluded, where they are finite.
    """
    from silofl_kernels import max_abs, median, squared_distances  # which load the kernels' compiler

    zero, center = np.zeros_like(rows[0]), np.zeros_like(rows[0])
    finite = [rows[index] for index in usual if math.isfinite(max_abs(rows[index]))]
    if finite:
        median(finite, center)
    return squared_distances([*rows, center, zero]).ravel()


def scores_of(squares: Numbers, usual: Sequence[int], allowed: int) -> list[Score]:
    """The scores of n updates, from the sum ((n + 2)^2,) of all parts.

    What is usual is seen of the rows `usual`, but for those `allowed` of them, at most less than half, that
    stick out most: attackers among them would hide each other by the spread that they make. Of equal updates
    one counts, for silos that copy one another would make all others unusual.
    """
    size = math.isqrt(len(squares))
    table, count = squares.reshape(size, size), size - 2
    lengths = table[:count, count + 1]
    judged = [at for at in range(count) if table[at, at] == 0 and math.isfinite(lengths[at])]
    reference = _different(table, [at for at in judged if at in {*usual}] or judged)
    found = [NOT_FINITE] * count
    if not judged:
        return found
    norms, distances = np.sqrt(lengths), np.full(count, np.nan)
    for one in judged:
        distances[one] = _median_distance(table, one, reference)
    cosines = _cosines(table, norms, count)
    deviations = {
        "norm": _deviations(norms, reference, allowed, relative=LEAST_SPREAD),
        "distance": _deviations(distances, reference, allowed, relative=LEAST_SPREAD),
        "cosine": _deviations(-cosines, reference, allowed, absolute=LEAST_COSINE_SPREAD),
    }
    order = sorted(judged, key=lambda one: (distances[one], one))
    for one in judged:
        why = max(deviations, key=lambda name: float(deviations[name][one]))
        numbers = float(norms[one]), float(cosines[one]), float(distances[one])
        found[one] = Score(*numbers, order.index(one) + 1, float(deviations[why][one]), why)
    return found


def _different(table: Numbers, places: Sequence[int]) -> list[int]:
    """Those places of which no earlier one has an equal update."""
    found: list[int] = []
    for one in places:
        if all(table[one, other] > 0 for other in found):
            found.append(one)
    return found


def _cosines(table: Numbers, norms: Numbers, count: int) -> Numbers:
    """Cosines with the median, (n,), by the law of cosines."""
    center = math.sqrt(table[count, count + 1])
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = (norms * norms + center * center - table[:count, count]) / 2
        lengths = norms * center
        found = np.where(lengths > 0, inner / lengths, 0.0)
    return np.clip(found, -1.0, 1.0)


def _median_distance(table: Numbers, one: int, reference: Sequence[int]) -> float:
    others = [other for other in reference if other != one]
    return float(np.median(np.sqrt(table[one, others]))) if others else 0.0


def _deviations(
    values: Numbers, reference: Sequence[int], allowed: int, *, relative: float = 0.0, absolute: float = 0.0
) -> Numbers:
    """How many robust deviations values (n,) are above what is usual, which spreads a little at least."""
    ordered = np.sort(values[reference])
    usual = ordered[: len(ordered) - min(allowed, (len(ordered) - 1) // 2)]
    center = float(np.median(usual))
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(usual - center)))
    spread = max(spread, relative * center, absolute)
    if spread == 0.0:
        return np.where(values > center, np.finfo(np.float64).max, 0.0)
    return np.asarray((values - center) / spread)
