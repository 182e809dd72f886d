"""The largest magnitude of each segment on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.tiles import TILE


def max_abs(x: Floats, ends: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """See `silofl_kernels.max_abs`; float64 (m,) over `out`."""
    words = np.zeros(len(ends), np.uint32 if x.dtype == np.float32 else np.uint64)
    _max_kernel(dtype_name(x.dtype))(x.view(words.dtype), ends, words)
    out[:] = words.view(x.dtype)
    out[~np.isfinite(out)] = np.inf


@functools.cache
def _max_kernel(dtype: str) -> Kernel:
    """Kernel (words, ends, out): floats of one sign are ordered as their bits, NaN after infinity.

    IEEE 754-2019, section 3.4.
    """
    word = np.uint32 if dtype == "float32" else np.uint64
    magnitude = word(np.iinfo(word).max >> 1)

    def largest_words(words: Any, ends: Any, out: Any) -> None:
        at = 0
        for segment in range(ends.size):
            largest = word(0)
            while at < ends[segment]:
                tile = borrow(words, at, min(ends[segment], at + TILE))
                for i in range(tile.size):
                    largest = max(largest, tile[i] & magnitude)
                at += tile.size
            out[segment] = largest

    name = np.dtype(word).name
    return kernel(
        largest_words, dtype, array(name, readonly=True), array("int64", readonly=True), array(name)
    )
