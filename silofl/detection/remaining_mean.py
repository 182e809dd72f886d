"""The mean of the updates that are left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silofl.types import Vector


def remaining_mean(rows: Sequence[Vector], weights: NDArray[np.float64]) -> Vector:
    """The mean (k,) of rows (k,) by their weights (n,), whatever those add up to; a new vector."""
    from silofl_kernels import reduce_rows_float  # which loads the kernels' compiler

    out = np.empty_like(rows[0])
    reduce_rows_float(rows, out, weights=np.ascontiguousarray(weights / np.add.reduce(weights)))
    return out
