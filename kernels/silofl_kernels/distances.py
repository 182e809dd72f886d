"""Squared distances of all pairs of rows: the parts that slices add to those of whole vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Rows, check_floats, check_rows


def squared_distances(rows: Rows) -> NDArray[np.float64]:
    """sum_j (x_ij - x_kj)^2 of all pairs of rows, float64 (n, n).

    Differences and sums are in float64 and in one order on every processor. The diagonal is 0 for a row of
    finite values and NaN for any other, so that it says which rows are to blame.

    Args:
        rows: float32 or float64 (n, k), or n contiguous vectors (k,); n >= 1. Not changed.

    Raises:
        ValueError, TypeError: an argument is not as described.
    """
    backend = backend_of(*rows)
    check_floats("row 0", rows[0])
    check_rows(rows, rows[0])
    out = np.zeros((len(rows), len(rows)))
    backend.squared_distances(rows, out)
    return out
