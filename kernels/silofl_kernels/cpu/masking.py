"""Masks alone on the CPU: words stay in the first-level cache while all masks go on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.cpu.tiles import TILE
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words, ring_bits

if TYPE_CHECKING:
    from silofl_kernels.masking import MaskSet


def add_masks(words: Words, masks: MaskSet, offset: int) -> None:
    """See `silofl_kernels.add_masks`."""
    kind = family(masks.prg)
    _add_kernel(ring_bits(words), kind, features.path(kind))(words, offset, *masks.prepared)


def mask_types() -> tuple[types.Type, types.Type]:
    """numba's types of what `MaskSet.prepared` holds."""
    return array("uint64", 2, readonly=True), types.int64


@functools.cache
def _add_kernel(bits: int, kind: Family, path: str) -> Kernel:
    code = streams.steps(kind, bits)
    every_mask = code.masks

    def add_all(words: Any, first: Any, schedules: Any, added: Any) -> None:
        work = np.empty(WORK_WORDS, np.uint64)
        start = 0
        while start < words.size:
            stop = min(words.size, start + TILE - (first + start) % TILE)
            every_mask(borrow(words, start, stop), first + start, schedules, added, work)
            start = stop

    return kernel(add_all, code.name, array(f"uint{bits}"), types.int64, *mask_types())
