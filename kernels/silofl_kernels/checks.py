"""Checks of arguments that several kernels share. They ask an array's attributes only, on any device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

Rows = NDArray[Any] | Sequence[NDArray[Any]]
"""A 2-D array with contiguous rows, or vectors, all of one dtype and length."""


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """`dtype.name`, which NumPy puts together anew each time."""
    return dtype.name


def check_floats(name: str, x: NDArray[Any], *, writable: bool = False) -> None:
    """Refuse anything but a contiguous vector of float32 or float64."""
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is float32 or float64, not {x.dtype}")
    check_vector(name, x, writable=writable)


def check_vector(name: str, x: NDArray[Any], *, writable: bool = False) -> None:
    """Refuse anything but an aligned, contiguous vector."""
    if x.ndim != 1 or not (x.flags.c_contiguous and x.flags.aligned):
        raise ValueError(f"{name} is one-dimensional, contiguous and aligned")
    if writable and not x.flags.writeable:
        raise ValueError(f"{name} is written to, and read-only")


def check_same_size(left: NDArray[Any], right: NDArray[Any]) -> None:
    """Refuse two vectors of unequal length."""
    if left.size != right.size:
        raise ValueError(f"two vectors of {left.size} and {right.size} elements")


def check_rows(rows: Rows, like: NDArray[Any]) -> None:
    """Refuse rows that cannot be added up.

    Raises:
        ValueError: no row, or one that is not contiguous, aligned and of `like.size` elements.
        TypeError: a row of another dtype than `like`.
    """
    if len(rows) == 0:
        raise ValueError("a sum needs at least one row")
    for number, row in enumerate(rows):
        if row.dtype != like.dtype:
            raise TypeError(f"row {number} is {row.dtype}, the rest {like.dtype}")
        if row.shape != (like.size,):
            raise ValueError(f"row {number} has shape {row.shape}, not ({like.size},)")
        if not (row.flags.c_contiguous and row.flags.aligned):
            raise ValueError(f"row {number} is not contiguous and aligned")
