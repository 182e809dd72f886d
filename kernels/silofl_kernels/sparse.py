"""Few coordinates of a vector: the k largest by selection, values at coordinates, and sums there.

Coordinates are uint32 or uint64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats, check_same_size, check_vector

Indices = NDArray[np.unsignedinteger[Any]]


def top_k(x: Floats, indices: Indices, values: Floats) -> None:
    """Write the coordinates of the k values of largest magnitude, ascending, and these values.

    Of equal magnitudes the lowest coordinates are taken. Magnitudes are ordered as their bits are (IEEE
    754-2019, section 5.10): infinity is larger than what is finite, and NaN larger still, so that what is not
    finite is never left out in silence. It takes two passes over x and no sorting: magnitudes are counted by
    their leading bits, then those that may be among the k are looked at. They take 8 or 16 bytes each
    meanwhile, and are a few more than k, or many where many magnitudes are within an eighth of the k-th.

    Args:
        x: float32 or float64 (d,), contiguous. Not changed.
        indices: uint32 or uint64 (k,), contiguous and writable; k is at most d.
        values: (k,) of the dtype of x, contiguous and writable.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, indices, values)
    check_floats("x", x)
    _check_pairs(x, indices, values)
    check_vector("indices", indices, writable=True)
    check_vector("values", values, writable=True)
    if indices.size > x.size:
        raise ValueError(f"the {indices.size} largest of {x.size} values")
    if x.size > 1 << 8 * indices.dtype.itemsize:
        raise ValueError(f"coordinates of {x.size} values do not fit {indices.dtype}")
    backend.top_k(x, indices, values)


def gather(x: Floats, indices: Indices, out: Floats) -> None:
    """Write x[indices] over `out`.

    Args:
        x: float32 or float64 (d,), contiguous. Not changed.
        indices: uint32 or uint64 (k,), contiguous, each below d.
        out: (k,) of the dtype of x, contiguous and writable.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, indices, out)
    check_floats("x", x)
    _check_pairs(x, indices, out)
    check_vector("indices", indices)
    check_vector("out", out, writable=True)
    _check_within(backend.largest_index(indices), x.size)
    backend.gather(x, indices, out)


def scatter_add(target: Floats, indices: Indices, values: Floats, *, weight: float = 1.0) -> None:
    """target[indices] += weight * values, one after another: a coordinate that comes twice gets both.

    Each sum is formed in float64 and rounded once.

    Args:
        target: float32 or float64 (d,), contiguous and writable.
        indices: uint32 or uint64 (k,), contiguous, each below d.
        values: (k,) of the dtype of target, contiguous. Not changed.
        weight: factor of the values.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(target, indices, values)
    check_floats("target", target, writable=True)
    _check_pairs(target, indices, values)
    check_vector("indices", indices)
    check_vector("values", values)
    _check_within(backend.largest_index(indices), target.size)
    backend.scatter_add(target, indices, values, weight)


def check_indices(indices: NDArray[Any]) -> None:
    """Refuse a dtype that is none of coordinates."""
    if indices.dtype not in (np.uint32, np.uint64):
        raise TypeError(f"coordinates are uint32 or uint64, not {indices.dtype}")


def _check_pairs(x: Floats, indices: Indices, values: Floats) -> None:
    check_indices(indices)
    if values.dtype != x.dtype:
        raise TypeError(f"values are {values.dtype}, the vector is {x.dtype}")
    check_same_size(indices, values)


def _check_within(largest: int, size: int) -> None:
    if largest >= size:
        raise ValueError(f"coordinate {largest} of a vector of {size}")
