"""Random rotations on the CPU: see `silofl_kernels.rotate`."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.hadamard_vector import GROUP, flip_group, turn_fours, turn_group, turn_twos
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.prg import Family, family

if TYPE_CHECKING:
    from silofl_kernels.streams import Stream

_TILE = 8192  # coordinates turned while they are in the first-level cache, or near it
_COLUMNS = 32  # neighbours that go together when coordinates far apart are turned: two cache lines and more


def rotate(x: Floats, stream: Stream, window: int) -> None:
    """See `silofl_kernels.rotate`; `window` is the length of a window."""
    _run(x, stream, window, inverse=False)


def unrotate(x: Floats, stream: Stream, window: int) -> None:
    """See `silofl_kernels.unrotate`; `window` is the length of a window."""
    _run(x, stream, window, inverse=True)


def _run(x: Floats, stream: Stream, window: int, *, inverse: bool) -> None:
    if x.size:
        kind = family(stream.prg)
        code = _rotate_kernel(dtype_name(x.dtype), kind, features.path(kind), inverse=inverse)
        code(x, window, 1 / math.sqrt(window), stream.prepared)


@functools.cache
def _rotate_kernel(dtype: str, kind: Family, path: str, *, inverse: bool) -> Kernel:
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
            whole = tile.size // GROUP * GROUP
            for i in range(0, whole, GROUP):
                flip_group(tile, i, scale, bits)
            for i in range(whole, tile.size):
                tile[i] *= -scale if bits[i] & 1 else scale

    return device(flip_signs, label)


def _make_turn(label: str) -> Kernel:
    """Helper (x, near): x times Sylvester's matrix, with `near` of _TILE elements as scratch memory.

    Every pass over memory turns a tile: first neighbours, then coordinates further and further apart, which
    are brought together (their distances are powers of two, and would meet in few lines of the cache).
    """
    few, many = device(_few, label), device(_many, label)

    def turn_window(x: Any, near: Any) -> None:
        for start in range(0, x.size, _TILE):
            tile = borrow(x, start, min(x.size, start + _TILE))
            if tile.size < GROUP:
                few(tile)
            else:
                for group in range(0, tile.size, GROUP):
                    turn_group(tile, group)
                many(tile, GROUP)
        apart = _TILE
        while apart < x.size:
            rows = min(_TILE // _COLUMNS, x.size // apart)
            for group in range(0, x.size, rows * apart):
                for start in range(group, group + apart, _COLUMNS):
                    for row in range(rows):
                        for i in range(_COLUMNS):
                            near[row * _COLUMNS + i] = x[start + row * apart + i]
                    many(borrow(near, 0, rows * _COLUMNS), _COLUMNS)
                    for row in range(rows):
                        for i in range(_COLUMNS):
                            x[start + row * apart + i] = near[row * _COLUMNS + i]
            apart *= rows

    return device(turn_window, label)


def _few(x: Any) -> None:
    """Sums and differences of coordinates 1, 2, 4, ... from each other, up to half the length."""
    apart = 1
    while apart < x.size:
        for start in range(0, x.size, 2 * apart):
            for i in range(start, start + apart):
                a, b = x[i], x[i + apart]
                x[i], x[i + apart] = a + b, a - b
        apart *= 2


def _many(x: Any, apart: Any) -> None:
    """The same from `apart` on, a multiple of a register's lanes: two distances in one pass."""
    while 4 * apart <= x.size:
        for start in range(0, x.size, 4 * apart):
            turn_fours(x, start, apart)
        apart *= 4
    if apart < x.size:
        for start in range(0, x.size, 2 * apart):
            turn_twos(x, start, apart)
