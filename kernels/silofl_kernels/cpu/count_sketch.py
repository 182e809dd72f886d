"""Count sketches on the CPU: see `silofl_kernels.count_sketch`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rows import borrow

if TYPE_CHECKING:
    from silofl_kernels.count_sketch import CountSketch

_BITS = 32  # signs that are bits of one lane
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def sketch(x: Floats, out: Floats, way: CountSketch) -> None:
    """See `silofl_kernels.sketch`."""
    out.fill(0)
    code = _sketch_kernel(dtype_name(x.dtype))
    code(x, out, way.rows, way.columns, way.together, np.uint64(way.seed))


def unsketch(sums: Floats, out: Floats, way: CountSketch) -> None:
    """See `silofl_kernels.unsketch`."""
    code = _unsketch_kernel(dtype_name(out.dtype))
    code(sums, out, way.rows, way.columns, way.together, np.uint64(way.seed))


def _word(seed: Any, number: Any) -> Any:
    """Word `number` of SplitMix64."""
    word = seed + (np.uint64(number) + np.uint64(1)) * _STEP
    word = (word ^ (word >> np.uint64(30))) * _FIRST
    word = (word ^ (word >> np.uint64(27))) * _SECOND
    return word ^ (word >> np.uint64(31))


def _make_turn(dtype: str, label: str) -> Kernel:
    """Helper (x, out, seed, number): `out` = x with the signs of the words from `number` on."""
    word, real = device(_word, label), np.dtype(dtype).type

    def turn_signs(x: Any, out: Any, seed: Any, number: Any) -> None:
        for start in range(0, x.size, _BITS):
            bits = np.uint32(word(seed, number + start // 64) >> np.uint64(start % 64))
            here, there = borrow(x, start, x.size), borrow(out, start, x.size)
            if here.size >= _BITS:
                for j in range(_BITS):
                    there[j] = here[j] * real(1 - 2 * np.int32((bits >> np.uint32(j)) & np.uint32(1)))
            else:
                for j in range(here.size):
                    there[j] = here[j] * real(1 - 2 * np.int32((bits >> np.uint32(j)) & np.uint32(1)))

    return device(turn_signs, label)


@functools.cache
def _sketch_kernel(dtype: str) -> Kernel:
    """Kernel (x, out, rows, columns, together, seed), which adds to `out`."""
    word, turn = device(_word, f"sketch_{dtype}"), _make_turn(dtype, f"sketch_{dtype}")

    def add_sketch(x: Any, out: Any, rows: Any, columns: Any, together: Any, seed: Any) -> None:
        signed, words = np.empty(together, x.dtype), 1 + (together + 63) // 64
        number = 0
        for start in range(0, x.size, together):
            part = borrow(x, start, min(x.size, start + together))
            for row in range(rows):
                at = np.int64(((word(seed, number) >> np.uint64(32)) * np.uint64(columns)) >> np.uint64(32))
                turn(part, signed, seed, number + 1)
                near = min(part.size, columns - at)
                sums = borrow(out, row * columns + at, row * columns + at + near)
                for j in range(near):
                    sums[j] += signed[j]
                rest, sums = borrow(signed, near, part.size), borrow(out, row * columns, row * columns + at)
                for j in range(rest.size):
                    sums[j] += rest[j]
                number += words

    whole = types.int64
    return kernel(
        add_sketch, dtype, array(dtype, readonly=True), array(dtype), whole, whole, whole, types.uint64
    )


def _low(a: Any, b: Any) -> Any:
    return a if a < b else b


def _high(a: Any, b: Any) -> Any:
    return b if a < b else a


@functools.cache
def _unsketch_kernel(dtype: str) -> Kernel:
    """Kernel (sums, out, rows, columns, together, seed): medians of what 1, 3 or 5 rows say."""
    label = f"unsketch_{dtype}"
    word, turn = device(_word, label), _make_turn(dtype, label)
    low, high = device(_low, label), device(_high, label)

    def estimate(sums: Any, out: Any, rows: Any, columns: Any, together: Any, seed: Any) -> None:
        said, near_by = np.empty(rows * together, out.dtype), np.empty(together, out.dtype)
        words, number = 1 + (together + 63) // 64, 0
        for start in range(0, out.size, together):
            part = borrow(out, start, min(out.size, start + together))
            for row in range(rows):
                at = np.int64(((word(seed, number) >> np.uint64(32)) * np.uint64(columns)) >> np.uint64(32))
                near = min(part.size, columns - at)
                found = borrow(sums, row * columns + at, row * columns + at + near)
                for j in range(near):
                    near_by[j] = found[j]
                found = borrow(sums, row * columns, row * columns + part.size - near)
                rest = borrow(near_by, near, part.size)
                for j in range(rest.size):
                    rest[j] = found[j]
                here = borrow(said, row * together, row * together + part.size)
                turn(borrow(near_by, 0, part.size), here, seed, number + 1)
                number += words
            a = borrow(said, 0, part.size)
            if rows == 1:
                for j in range(part.size):
                    part[j] = a[j]
                continue
            b = borrow(said, together, together + part.size)
            c = borrow(said, 2 * together, 2 * together + part.size)
            if rows == 3:
                for j in range(part.size):
                    part[j] = high(low(a[j], b[j]), low(high(a[j], b[j]), c[j]))
                continue
            d = borrow(said, 3 * together, 3 * together + part.size)
            e = borrow(said, 4 * together, 4 * together + part.size)
            for j in range(part.size):
                f = high(low(a[j], b[j]), low(c[j], d[j]))
                g = low(high(a[j], b[j]), high(c[j], d[j]))
                part[j] = high(low(f, g), low(high(f, g), e[j]))

    whole = types.int64
    return kernel(
        estimate, dtype, array(dtype, readonly=True), array(dtype), whole, whole, whole, types.uint64
    )
