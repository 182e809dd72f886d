"""The largest magnitude on the CPU."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from silofl_kernels.checks import Floats
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.quantize import TILE
from silofl_kernels.cpu.rows import borrow


def max_abs(x: Floats) -> float:
    """See `silofl_kernels.max_abs`."""
    bits = np.uint32 if x.dtype == np.float32 else np.uint64
    word = _largest_kernel(x.dtype.name)(x.view(bits))
    value = float(np.array([word], bits).view(x.dtype)[0])
    return value if np.isfinite(value) else float("inf")


@functools.cache
def _largest_kernel(dtype: str) -> Kernel:
    """Floats of one sign are ordered as their bits (IEEE 754-2019, section 3.4), NaN after infinity."""
    word = np.uint32 if dtype == "float32" else np.uint64
    magnitude = word(np.iinfo(word).max >> 1)

    def largest_word(words: Any) -> Any:
        largest = word(0)
        for start in range(0, words.size, TILE):
            tile = borrow(words, start, min(words.size, start + TILE))
            for i in range(tile.size):
                largest = max(largest, tile[i] & magnitude)
        return largest

    return kernel(largest_word, dtype, array(np.dtype(word).name, readonly=True))
