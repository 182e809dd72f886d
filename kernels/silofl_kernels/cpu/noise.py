"""Discrete noise on the CPU, a tile at a time: see `silofl_kernels.noise` for which words make a sample."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import dtype_name
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.noise_table import END_BITS, HEAD_BITS, OTHER_BITS, NoiseTable
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words

if TYPE_CHECKING:
    from silofl_kernels.streams import Stream

TILE = 512
"""Samples that share a stretch of a stream, which stays in the first-level cache; every cipher's step divides
it."""
_SIGN_BIT, _HEAD_BIT = np.uint64(63), np.uint64(63 - HEAD_BITS)
_HEAD = np.uint64((1 << HEAD_BITS) - 1)
_OTHER_BITS, _OTHER = np.uint64(OTHER_BITS), np.uint64((1 << OTHER_BITS) - 1)
_END = np.uint64((1 << END_BITS) - 1)


def add_noise(words: Words, table: NoiseTable, stream: Stream, position: int) -> None:
    """See `silofl_kernels.add_noise`."""
    _run(words, table, stream, position, added=True)


def draw_noise(out: NDArray[np.int32], table: NoiseTable, stream: Stream, position: int) -> None:
    """See `silofl_kernels.draw_noise`."""
    _run(out, table, stream, position, added=False)


def _run(out: NDArray[Any], table: NoiseTable, stream: Stream, position: int, *, added: bool) -> None:
    kind = family(stream.prg)
    code = _noise_kernel(dtype_name(out.dtype), kind, features.path(kind), added=added)
    code(out, table.cells, table.tails, table.ends, stream.prepared, position)


@functools.cache
def _noise_kernel(dtype: str, kind: Family, path: str, *, added: bool) -> Kernel:
    """Kernel (out, cells, tails, ends, prepared, first): samples `first`, ... over `out` or added to it."""
    steps = streams.steps(kind, 64)
    label, fill = f"{dtype}_{steps.name}_{'added' if added else 'drawn'}", steps.fill
    settle, choose = device(_settle, label), device(_choose, label)

    def noise_vector(out: Any, cells: Any, tails: Any, ends: Any, prepared: Any, first: Any) -> None:
        draws, work = np.empty(TILE, np.uint64), np.empty(WORK_WORDS, np.uint64)
        more, picked = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
        last = np.uint64(cells.size - 1)
        start = 0
        while start < out.size:
            here = first + start
            tile = borrow(out, start, min(out.size, start + TILE - here % TILE))
            word = here // TILE * 2 * TILE + here % TILE
            fill(borrow(draws, 0, tile.size), word, prepared, work)
            open_ones = 0
            for i in range(tile.size):  # look-ups apart from arithmetic: more of them are under way at once
                picked[i] = np.uint64(cells[draws[i] & last])
            for i in range(tile.size):
                open_ones += ((draws[i] >> _HEAD_BIT) & _HEAD) == picked[i] >> _OTHER_BITS
            if open_ones:
                fill(borrow(more, 0, tile.size), word + TILE, prepared, work)
                settle(borrow(picked, 0, tile.size), draws, more, tails, ends)
            for i in range(tile.size):
                sample = choose(draws[i], draws[i] & last, picked[i])
                if added:
                    sample += np.int64(tile[i])
                tile[i] = sample
            start += tile.size

    prepared, cells = array("uint64", 2, readonly=True), array("uint32", readonly=True)
    tails, ends = array("uint64", readonly=True), array("uint32", readonly=True)
    return kernel(noise_vector, label, array(dtype), cells, tails, ends, prepared, types.int64)


def _settle(picked: Any, draws: Any, more: Any, tails: Any, ends: Any) -> None:
    """Where the head is the threshold's, put the value that the rest picks in the place of the cell."""
    for i in range(picked.size):
        if (draws[i] >> _HEAD_BIT) & _HEAD == picked[i] >> _OTHER_BITS:
            own, end = draws[i] & np.uint64(tails.size - 1), (draws[i] >> _OTHER_BITS) & _END
            equal = more[i] == tails[own]
            below = end < np.uint64(ends[own]) if equal else more[i] < tails[own]
            picked[i] = own if below else picked[i] & _OTHER


def _choose(draw: Any, own: Any, picked: Any) -> Any:
    """The sample, int64, of a cell and the word of a stream that picked it."""
    kept = (draw >> _HEAD_BIT) & _HEAD < picked >> _OTHER_BITS
    magnitude, sign = np.int64(own if kept else picked & _OTHER), np.int64(draw >> _SIGN_BIT)
    return (magnitude ^ -sign) + sign
