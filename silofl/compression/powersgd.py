"""PowerSGD: matrices as products of two thin ones, by one step of power iteration in each round."""

from dataclasses import dataclass
from math import prod
from typing import final

import numpy as np

from silofl.compression.base import FactorCodec
from silofl.constrained import PositiveInt
from silofl.types import Vector


@final
@dataclass(frozen=True)
class PowerSGD(FactorCodec):
    """PowerSGD (Vogels et al. 2019, algorithms 1 and 2), with warm start and error feedback.

    Two sums a round: of P = M Q, whose mean is made orthonormal, and of M^T P with all that has no factors.
    Tensors of several dimensions are matrices of their first one by the others. In the round after a silo was
    lost or came back, Q begins anew. Where a silo is lost between the two sums the second stays closed, for
    both together would show part of that silo's update: the round moves nothing, and nothing is lost.
    """

    rank: PositiveInt = 2
    """Columns of each factor; tensors that they would not make shorter are sent whole."""

    paper = "Vogels et al. 2019"

    def factored(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """See `FactorCodec`."""
        if len(shape) < 2:
            return None
        rows, columns = shape[0], prod(shape[1:])
        if self.rank > min(rows, columns) or self.rank * (rows + columns) >= rows * columns:
            return None
        return rows, columns, self.rank

    def first(self, matrix: Vector, second: Vector) -> Vector:
        """See `FactorCodec`."""
        return matrix @ second

    def basis(self, mean: Vector) -> Vector:
        """See `FactorCodec`: Gram and Schmidt's, in float64; zeros where a column is made of those before."""
        found = mean.astype(np.float64)
        for k in range(found.shape[1]):
            column = found[:, k].copy()
            size = np.sqrt(_dot(column, column))
            for j in range(k):
                column -= _dot(found[:, j], column) * found[:, j]
            left = np.sqrt(_dot(column, column))
            found[:, k] = column / left if left > 1e-7 * size else 0.0
        return found

    def second(self, matrix: Vector, basis: Vector) -> Vector:
        """See `FactorCodec`."""
        return matrix.T @ basis.astype(matrix.dtype)

    def add_product(self, matrix: Vector, basis: Vector, second: Vector, weight: float) -> None:
        """See `FactorCodec`."""
        from silofl_kernels import add_product  # with a compiler, which a configuration does not need

        across = np.ascontiguousarray(second.T, np.float64)
        add_product(matrix, np.ascontiguousarray(basis, np.float64), across, weight=weight)


def _dot(one: Vector, other: Vector) -> float:
    """In NumPy's own order, for libraries of linear algebra choose theirs by the processor."""
    return float(np.add.reduce(np.ascontiguousarray(one) * np.ascontiguousarray(other)))
