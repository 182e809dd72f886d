"""Discrete noise around centres on the CPU, a tile at a time: see `silofl_kernels.correlated`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.centred_table import CELLS, FRACTION_BITS, LOWEST, centred_tables
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.noise import TILE
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.noise_table import END_BITS, HEAD_BITS, OTHER_BITS
from silofl_kernels.prg import Family, family

if TYPE_CHECKING:
    from silofl_kernels.streams import Stream

_HEAD_BIT, _HEAD = np.uint64(63 - HEAD_BITS), np.uint64((1 << HEAD_BITS) - 1)
_OTHER_BITS, _OTHER = np.uint64(OTHER_BITS), np.uint64((1 << OTHER_BITS) - 1)
_END = np.uint64((1 << END_BITS) - 1)
_CELL, _CELLS, _LOWEST = np.uint64(CELLS - 1), np.int64(CELLS), np.int64(LOWEST)
_FRACTION_BITS, _FRACTION = np.int64(FRACTION_BITS), np.int64((1 << FRACTION_BITS) - 1)


def correlate_noise(
    out: NDArray[np.int32],
    past: NDArray[np.int32],
    coefficients: NDArray[np.int64],
    stream: Stream,
    position: int,
) -> None:
    """See `silofl_kernels.correlate_noise`."""
    kind, tables = family(stream.prg), centred_tables()
    code = _correlating_kernel(kind, features.path(kind))
    code(
        out,
        past.reshape(-1),
        past.shape[1],
        coefficients,
        tables.cells,
        tables.tails,
        tables.ends,
        stream.prepared,
        position,
    )


@functools.cache
def _correlating_kernel(kind: Family, path: str) -> Kernel:
    """Kernel (out, past, length, coefficients, cells, tails, ends, prepared, first): rows lie end to end."""
    steps = streams.steps(kind, 64)
    fill = steps.fill
    settle = device(_settle, steps.name)

    def correlate_vector(
        out: Any,
        past: Any,
        length: Any,
        coefficients: Any,
        cells: Any,
        tails: Any,
        ends: Any,
        prepared: Any,
        first: Any,
    ) -> None:
        draws, work = np.empty(TILE, np.uint64), np.empty(WORK_WORDS, np.uint64)
        more, picked = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
        centres, own = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
        start = 0
        while start < out.size:
            here = first + start
            tile = borrow(out, start, min(out.size, start + TILE - here % TILE))
            word = here // TILE * 2 * TILE + here % TILE
            fill(borrow(draws, 0, tile.size), word, prepared, work)
            for i in range(tile.size):
                centres[i] = 0
            for row in range(coefficients.size):
                factor, at = coefficients[row], row * length + here
                before = borrow(past, at, at + tile.size)
                for i in range(tile.size):
                    centres[i] -= factor * np.int64(before[i])
            open_ones = 0
            for i in range(tile.size):
                own[i] = (centres[i] & _FRACTION) * _CELLS + np.int64(draws[i] & _CELL)
                picked[i] = np.uint64(cells[own[i]])
            for i in range(tile.size):
                open_ones += ((draws[i] >> _HEAD_BIT) & _HEAD) == picked[i] >> _OTHER_BITS
            if open_ones:
                fill(borrow(more, 0, tile.size), word + TILE, prepared, work)
                settle(borrow(picked, 0, tile.size), draws, more, own, tails, ends)
            for i in range(tile.size):
                kept = (draws[i] >> _HEAD_BIT) & _HEAD < picked[i] >> _OTHER_BITS
                cell = np.int64(draws[i] & _CELL if kept else picked[i] & _OTHER)
                tile[i] += (centres[i] >> _FRACTION_BITS) + cell + _LOWEST
            start += tile.size

    words, wide = array("uint32", readonly=True), array("uint64", readonly=True)
    return kernel(
        correlate_vector,
        steps.name,
        array("int32"),
        array("int32", readonly=True),
        types.int64,
        array("int64", readonly=True),
        words,
        wide,
        words,
        array("uint64", 2, readonly=True),
        types.int64,
    )


def _settle(picked: Any, draws: Any, more: Any, own: Any, tails: Any, ends: Any) -> None:
    """Where the head is the threshold's, put the cell that the rest picks in the place of the cell."""
    for i in range(picked.size):
        if (draws[i] >> _HEAD_BIT) & _HEAD == picked[i] >> _OTHER_BITS:
            at, end = own[i], (draws[i] >> _OTHER_BITS) & _END
            equal = more[i] == tails[at]
            below = end < np.uint64(ends[at]) if equal else more[i] < tails[at]
            picked[i] = draws[i] & _CELL if below else picked[i] & _OTHER
