"""Discrete noise from secret streams: sample i is a function of the key and i, and of nothing else.

Sample i takes bytes 16 i to 16 i + 15 of its stream, two little-endian words. The low bits of the first pick
a cell of the table, its top bit the sign; the second, below the cell's threshold or not, picks one of the
cell's two values. Which cells are touched depends on the draws: the time it takes is that of a table look-up,
and not hidden from who can watch the caches of this very processor.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels import cpu, streams
from silofl_kernels.jit import Kernel, array, device, kernel
from silofl_kernels.noise_table import NoiseTable
from silofl_kernels.quantize import check_vector
from silofl_kernels.ring import Words, ring_bits
from silofl_kernels.rows import borrow
from silofl_kernels.streams import WORK_WORDS, Stream

SAMPLE_BYTES = 16
"""Bytes of a stream that a sample takes."""

_TILE = 512  # samples whose stream, 8 KiB, stays in the first-level cache; a multiple of every cipher's step
_ONE = np.uint64(1)
_SIGN_BIT = np.uint64(63)


def add_noise(words: Words, table: NoiseTable, stream: Stream, *, position: int = 0) -> None:
    """Add a sample to each word in the ring.

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous and writable; sums wrap around.
        table: the distribution; its distance from what it is named after is at most `NOISE_DISTANCE`.
        stream: the secret stream, used for nothing else.
        position: number of the first sample, the coordinate of words[0] in the whole vector.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    ring_bits(words)
    check_vector("words", words, writable=True)
    _run(words, table, stream, position, added=True)


def draw_noise(out: NDArray[np.int32], table: NoiseTable, stream: Stream, *, position: int = 0) -> None:
    """Write a sample over each element of `out`: those that `add_noise` adds.

    Args:
        out: int32 (k,), contiguous and writable.
        table: the distribution; its distance from what it is named after is at most `NOISE_DISTANCE`.
        stream: the secret stream, used for nothing else.
        position: number of the first sample.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    if out.dtype != np.int32:
        raise TypeError(f"samples are int32, not {out.dtype}")
    check_vector("out", out, writable=True)
    _run(out, table, stream, position, added=False)


def _run(out: NDArray[Any], table: NoiseTable, stream: Stream, position: int, *, added: bool) -> None:
    streams.check_span(stream.prg, SAMPLE_BYTES * position, SAMPLE_BYTES * out.size)
    kind = streams.family(stream.prg)
    code = _noise_kernel(out.dtype.name, kind, cpu.path(kind), added=added)
    code(out, table.cells, stream.prepared, position)


@functools.cache
def _noise_kernel(dtype: str, kind: cpu.Family, path: str, *, added: bool) -> Kernel:
    """Kernel (out, cells, prepared, first): samples from number `first` on, over `out` or added to it."""
    steps = streams.steps(kind, 64)
    label, fill = f"{dtype}_{steps.name}_{'added' if added else 'drawn'}", steps.fill
    choose = device(_choose, label)

    def noise_vector(out: Any, cells: Any, prepared: Any, first: Any) -> None:
        draws, work = np.empty(2 * _TILE, np.uint64), np.empty(WORK_WORDS, np.uint64)
        limits, others = np.empty(_TILE, np.uint64), np.empty(_TILE, np.uint64)
        start = 0
        while start < out.size:
            here = first + start
            tile = borrow(out, start, min(out.size, start + _TILE - here % _TILE))
            fill(borrow(draws, 0, 2 * tile.size), 2 * here, prepared, work)
            for i in range(tile.size):  # look-ups apart from arithmetic: more of them are under way at once
                entry = (draws[2 * i] << _ONE) & np.uint64(cells.size - 2)
                limits[i], others[i] = cells[entry], cells[entry + _ONE]
            for i in range(tile.size):
                own = ((draws[2 * i] << _ONE) & np.uint64(cells.size - 2)) >> _ONE
                sample = choose(draws[2 * i], draws[2 * i + 1], own, limits[i], others[i])
                if added:
                    sample += np.int64(tile[i])
                tile[i] = sample
            start += tile.size

    prepared = array("uint64", 2, readonly=True)
    cells = array("uint64", readonly=True)
    return kernel(noise_vector, label, array(dtype), cells, prepared, types.int64)


def _choose(pick: Any, chance: Any, own: Any, limit: Any, other: Any) -> Any:
    """The sample, int64, of a cell and the two words of a stream that picked it."""
    magnitude = np.int64(own if chance < limit else other)
    sign = np.int64(pick >> _SIGN_BIT)
    return (magnitude ^ -sign) + sign
