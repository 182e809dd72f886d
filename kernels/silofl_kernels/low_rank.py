"""Matrices that are products of two thin ones, added to a matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats

Factor = NDArray[np.float64]
"""Contiguous, two-dimensional."""


def add_product(target: Floats, left: Factor, right: Factor, *, weight: float = 1.0) -> None:
    """target += weight * left @ right, in float64 and rounded once; the same bits on every processor.

    Products are added in the order of the columns of `left`, each rounded before: libraries of linear algebra
    choose the order, and instructions that do not round between, by the processor.

    Args:
        target: float32 or float64 (r, c), contiguous and writable.
        left: float64 (r, k), contiguous. Not changed.
        right: float64 (k, c), contiguous. Not changed.
        weight: of the product.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(target, left, right)
    if target.dtype not in (np.float32, np.float64):
        raise TypeError(f"target is float32 or float64, not {target.dtype}")
    for name, matrix in (("target", target), ("left", left), ("right", right)):
        if matrix.ndim != 2 or not (matrix.flags.c_contiguous and matrix.flags.aligned):
            raise ValueError(f"{name} is two-dimensional, contiguous and aligned")
        if name != "target" and matrix.dtype != np.float64:
            raise TypeError(f"{name} is float64, not {matrix.dtype}")
    if not target.flags.writeable:
        raise ValueError("target is written to, and read-only")
    if target.shape != (len(left), right.shape[1]) or left.shape[1] != len(right):
        raise ValueError(f"{left.shape} times {right.shape} is not {target.shape}")
    backend.add_product(target, left, right, weight)
