"""Products of thin matrices on the CPU: see `silofl_kernels.low_rank`. A row at a time, as a cache has it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, kernel

if TYPE_CHECKING:
    from silofl_kernels.low_rank import Factor


def add_product(target: Floats, left: Factor, right: Factor, weight: float) -> None:
    """See `silofl_kernels.add_product`."""
    _product_kernel(dtype_name(target.dtype))(target, left, right, weight)


@functools.cache
def _product_kernel(dtype: str) -> Kernel:
    """Kernel (target, left, right, weight)."""
    kind = np.dtype(dtype).type

    def add_row_products(target: Any, left: Any, right: Any, weight: Any) -> None:
        total = np.empty(right.shape[1], np.float64)
        for i in range(left.shape[0]):
            total[:] = 0.0
            for k in range(right.shape[0]):
                factor = left[i, k]
                for j in range(total.size):
                    total[j] += factor * right[k, j]
            for j in range(total.size):
                target[i, j] = kind(np.float64(target[i, j]) + weight * total[j])

    thin = array("float64", 2, readonly=True)
    return kernel(add_row_products, dtype, array(dtype, 2), thin, thin, types.float64)
