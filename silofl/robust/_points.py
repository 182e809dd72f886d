"""Points known by their squared distances alone: what a rule knows of updates that lie in slices.

All rules but those that go coordinate by coordinate give a weighted sum of the updates, whose weights depend
on distances. Distances of whole vectors are sums of those of slices, so that each server of a slice works the
weights out for itself, from n x n numbers, and no rank has more of an update than its slice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Affine combinations of m vectors of which squared distances are known.

    Distances of combinations are worked out from differences of their coefficients: where two have the same
    part of a vector that is far away, that vector does not round what is between them.

    Attributes:
        combinations: (r, m) coefficients, those of each point adding up to 1.
        squares: (m, m) squared distances of the vectors.
        made_of: (m, m) coefficients of what each of these is made of, of vectors that were measured.
    """

    combinations: Matrix
    squares: Matrix
    made_of: Matrix

    def __len__(self) -> int:
        return len(self.combinations)

    def to(self, target: NDArray[np.float64]) -> Matrix:
        """Distances (r,) of all points to the combination `target` (m,)."""
        apart = self.combinations - target
        return np.asarray(np.sqrt(np.maximum(-0.5 * ((apart @ self.squares) * apart).sum(axis=1), 0.0)))

    def distances(self) -> Matrix:
        """Of all pairs of points (r, r)."""
        found = np.stack([self.to(one) for one in self.combinations])
        return np.maximum(found, found.T)

    def mean(self, weights: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """The combination (m,) that is the points' mean by `weights` (r,), of which some are above 0."""
        if weights is None:
            return np.asarray(self.combinations.mean(axis=0))
        return np.asarray(weights @ self.combinations / weights.sum())

    def products(self, center: NDArray[np.float64]) -> Matrix:
        """Inner products (r, r) of the points less the combination `center` (m,)."""
        apart = self.combinations - center
        return np.asarray(-0.5 * apart @ self.squares @ apart.T)

    def mixed(self, mixture: Matrix) -> Points:
        """The points that are `mixture` (q, r), whose rows add up to 1, of these."""
        return replace(self, combinations=mixture @ self.combinations)
