"""Random rotations: signs from a public stream, then the Walsh-Hadamard transform, in place.

They spread a vector's norm over all coordinates, so that few of them leave the range of a small ring
(Kairouz, Liu and Steinke 2021, section 4; Suresh et al. 2017, section 3).

A window of n coordinates, a power of two, becomes H D x / sqrt(n): D holds signs, H is Sylvester's matrix.
Where n does not divide the length, the last window overlaps the one before it and is turned after it: no
padding, each step orthogonal, and no coordinate left out, whatever the length. No step adds in an order that
depends on the processor: the bits are the same everywhere.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import types

from silofl_kernels import features, streams
from silofl_kernels.jit import Kernel, array, device, kernel
from silofl_kernels.quantize import Floats, check_floats
from silofl_kernels.rows import borrow
from silofl_kernels.streams import WORK_WORDS, Stream

_TILE = 8192  # coordinates turned while they are in the first-level cache, or near it
_COLUMNS = 32  # neighbours that go together when coordinates far apart are turned: two cache lines and more


def rotate(x: Floats, stream: Stream, *, block: int | None = None) -> None:
    """Rotate `x` in place; its Euclidean norm stays, to rounding. A NaN or infinity spoils its windows.

    Args:
        x: float32 or float64 (k,), contiguous and writable.
        stream: decides the signs; all who add rotated vectors up use the same, and it may be public. Sign i
            of window w, of n coordinates, is bit 0 of byte w n + i.
        block: the largest window, a power of two; None for the largest that x has room for, so that each
            coordinate is spread over more than half of x.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    _run(x, stream, block, inverse=False)


def unrotate(x: Floats, stream: Stream, *, block: int | None = None) -> None:
    """Undo `rotate` with the same stream and block, in place, to rounding.

    Args:
        x: float32 or float64 (k,), contiguous and writable.
        stream: the stream of `rotate`.
        block: the block of `rotate`.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    _run(x, stream, block, inverse=True)


def _run(x: Floats, stream: Stream, block: int | None, *, inverse: bool) -> None:
    check_floats("x", x, writable=True)
    if block is not None and (block < 1 or block & (block - 1)):
        raise ValueError(f"a block is a power of two, not {block}")
    if x.size == 0:
        return
    room = x.size if block is None else min(block, x.size)
    window = 1 << (room.bit_length() - 1)
    streams.check_span(stream.prg, 0, x.size + window)
    kind = streams.family(stream.prg)
    code = _rotate_kernel(x.dtype.name, kind, features.path(kind), inverse=inverse)
    code(x, window, 1 / math.sqrt(window), stream.prepared)


@functools.cache
def _rotate_kernel(dtype: str, kind: features.Family, path: str, *, inverse: bool) -> Kernel:
    """Kernel (x, window, scale, prepared): every window in turn; the inverse takes them from the last on."""
    steps = streams.steps(kind, 8)
    label = f"{dtype}_{steps.name}_{'back' if inverse else 'there'}"
    flip, turn = _make_flip(steps.fill, label), _make_turn(label)
    real = types.float32 if dtype == "float32" else types.float64

    def rotate_vector(x: Any, window: Any, scale: Any, prepared: Any) -> None:
        signs, work = np.empty(_TILE, np.uint8), np.empty(WORK_WORDS, np.uint64)
        near = np.empty(_TILE, x.dtype)
        count = (x.size + window - 1) // window
        for turned in range(count):
            number = count - 1 - turned if inverse else turned
            start = min(number * window, x.size - window)
            part = borrow(x, start, start + window)
            if inverse:
                turn(part, near)
            flip(part, number * window, scale, prepared, signs, work)
            if not inverse:
                turn(part, near)

    return kernel(rotate_vector, label, array(dtype), types.int64, real, array("uint64", 2, readonly=True))


def _make_flip(fill: Kernel, label: str) -> Kernel:
    """Helper (x, first, scale, prepared, signs, work): x times the scale, and times -1 by the stream."""

    def flip_signs(x: Any, first: Any, scale: Any, prepared: Any, signs: Any, work: Any) -> None:
        for start in range(0, x.size, _TILE):
            tile = borrow(x, start, min(x.size, start + _TILE))
            bits = borrow(signs, 0, tile.size)
            fill(bits, first + start, prepared, work)
            for i in range(tile.size):
                tile[i] *= -scale if bits[i] & 1 else scale

    return device(flip_signs, label)


def _make_turn(label: str) -> Kernel:
    """Helper (x, near): x times Sylvester's matrix, with `near` of _TILE elements as scratch memory.

    Every pass over memory turns a tile: first neighbours, then coordinates further and further apart, which
    are brought together (their distances are powers of two, and would meet in few lines of the cache).
    """
    butterflies, eights = device(_butterflies, label), device(_eights, label)

    def turn_window(x: Any, near: Any) -> None:
        for start in range(0, x.size, _TILE):
            tile = borrow(x, start, min(x.size, start + _TILE))
            if tile.size >= 8:
                eights(tile)
                butterflies(tile, 8)
            else:
                butterflies(tile, 1)
        apart = _TILE
        while apart < x.size:
            rows = min(_TILE // _COLUMNS, x.size // apart)
            for group in range(0, x.size, rows * apart):
                for start in range(group, group + apart, _COLUMNS):
                    for row in range(rows):
                        for i in range(_COLUMNS):
                            near[row * _COLUMNS + i] = x[start + row * apart + i]
                    butterflies(borrow(near, 0, rows * _COLUMNS), _COLUMNS)
                    for row in range(rows):
                        for i in range(_COLUMNS):
                            x[start + row * apart + i] = near[row * _COLUMNS + i]
            apart *= rows

    return device(turn_window, label)


def _butterflies(x: Any, apart: Any) -> None:
    """Sums and differences of coordinates `apart`, 2 `apart`, ... from each other, up to half the length."""
    while apart < x.size:
        for start in range(0, x.size, 2 * apart):
            left, right = borrow(x, start, start + apart), borrow(x, start + apart, start + 2 * apart)
            for i in range(apart):
                a, b = left[i], right[i]
                left[i], right[i] = a + b, a - b
        apart *= 2


def _eights(x: Any) -> None:
    """`_butterflies` of distances 1, 2 and 4 in registers."""
    for i in range(0, x.size, 8):
        a, b, c, d = x[i] + x[i + 1], x[i] - x[i + 1], x[i + 2] + x[i + 3], x[i + 2] - x[i + 3]
        e, f, g, h = x[i + 4] + x[i + 5], x[i + 4] - x[i + 5], x[i + 6] + x[i + 7], x[i + 6] - x[i + 7]
        a, b, c, d = a + c, b + d, a - c, b - d
        e, f, g, h = e + g, f + h, e - g, f - h
        x[i], x[i + 1], x[i + 2], x[i + 3] = a + e, b + f, c + g, d + h
        x[i + 4], x[i + 5], x[i + 6], x[i + 7] = a - e, b - f, c - g, d - h
