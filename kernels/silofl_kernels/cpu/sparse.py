"""Values at some coordinates on the CPU: see `silofl_kernels.sparse`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, kernel

if TYPE_CHECKING:
    from silofl_kernels.sparse import Indices


def largest_index(indices: Indices) -> int:
    """The largest coordinate, -1 where there is none."""
    return int(indices.max()) if indices.size else -1


def gather(x: Floats, indices: Indices, out: Floats) -> None:
    """See `silofl_kernels.gather`."""
    _gather_kernel(dtype_name(x.dtype), dtype_name(indices.dtype))(x, indices, out)


def scatter_add(target: Floats, indices: Indices, values: Floats, weight: float) -> None:
    """See `silofl_kernels.scatter_add`."""
    _scatter_kernel(dtype_name(target.dtype), dtype_name(indices.dtype))(target, indices, values, weight)


@functools.cache
def _gather_kernel(dtype: str, index: str) -> Kernel:
    def gather_values(x: Any, indices: Any, out: Any) -> None:
        for i in range(out.size):
            out[i] = x[indices[i]]

    return kernel(
        gather_values,
        f"{dtype}_{index}",
        array(dtype, readonly=True),
        array(index, readonly=True),
        array(dtype),
    )


@functools.cache
def _scatter_kernel(dtype: str, index: str) -> Kernel:
    def scatter_values(target: Any, indices: Any, values: Any, weight: Any) -> None:
        for i in range(indices.size):
            at = indices[i]
            target[at] = np.float64(target[at]) + np.float64(values[i]) * weight

    return kernel(
        scatter_values, f"{dtype}_{index}", array(dtype), array(index, readonly=True),
        array(dtype, readonly=True), types.float64,
    )  # fmt: skip
