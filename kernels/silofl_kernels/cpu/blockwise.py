"""Codes with one step for each block on the CPU: see `silofl_kernels.blockwise`.

A block is read twice, for its largest magnitude and for its codes; the second time it is in the cache.
What does not fill a register is copied to one that is nobody else's: the arithmetic is written once.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import dtype_name
from silofl_kernels.cpu import features
from silofl_kernels.cpu.block_vector import make_encode, make_largest
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rounding import LANES
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.cpu.tiles import make_draw
from silofl_kernels.prg import Family, family

if TYPE_CHECKING:
    from silofl_kernels.blockwise import Codes, Float32
    from silofl_kernels.streams import Stream

_TILE = 4096  # values whose random bits are made at once
_LEAST = np.float32(2.0**-100)  # a block of smaller values is 0: the inverse of its step might overflow
_NO_ENDS = np.zeros(0, np.int64)
_NO_KEYS = np.zeros((0, 0), np.uint64)
_NO_VALUES = np.zeros(0, np.float32)


def quantize_blocks(
    x: Float32,
    codes: Codes,
    steps: Float32,
    bits: int,
    block: int,
    first: int,
    residual: Float32 | None,
    rounding: Stream | None,
) -> int:
    """See `silofl_kernels.quantize_blocks`."""
    return _run(x, codes, steps, bits, (block, _NO_ENDS), first, residual, rounding)


def quantize_segments(
    x: Float32,
    codes: Codes,
    steps: Float32,
    bits: int,
    ends: NDArray[np.int64],
    first: int,
    residual: Float32 | None,
    rounding: Stream | None,
) -> int:
    """See `silofl_kernels.quantize_segments`."""
    return _run(x, codes, steps.copy(), bits, (0, ends), first, residual, rounding)


def _run(
    x: Float32,
    codes: Codes,
    steps: Float32,
    bits: int,
    parts: tuple[int, NDArray[np.int64]],
    first: int,
    residual: Float32 | None,
    rounding: Stream | None,
) -> int:
    kind = family(rounding.prg) if rounding is not None else None
    code = _quantize_kernel(_Variant(dtype_name(codes.dtype), kind), features.path(kind) if kind else "")
    missed: int = code(
        x, _NO_VALUES if residual is None else residual, codes, steps, *parts, first,
        max(1, (1 << bits - 1) - 1), bits == 1, rounding.prepared if rounding is not None else _NO_KEYS,
    )  # fmt: skip
    return missed


class _Variant(NamedTuple):
    codes: str
    noisy: Family | None

    @property
    def label(self) -> str:
        rounding = f"{self.noisy}_{features.path(self.noisy)}" if self.noisy else "nearest"
        return f"{self.codes}_{rounding}"


@functools.cache
def _quantize_kernel(variant: _Variant, path: str) -> Kernel:
    """Kernel (x, residual, codes, steps, block, ends, first, limit, signs, noise): how many were not finite.

    Without `ends` it finds the step of each block; with them it takes those that `steps` holds.
    """
    measure, encode = _measure(), _make_encode(variant)
    draw, spoil, quiet = make_draw(variant.noisy), _spoil_run(), variant.noisy is None

    def quantize_runs(
        x: Any, residual: Any, codes: Any, steps: Any, block: Any, ends: Any, first: Any, limit: Any,
        signs: Any, noise: Any,
    ) -> Any:  # fmt: skip
        draws, work = np.empty(_TILE, np.uint32), np.empty(WORK_WORDS, np.uint64)
        near, total = np.empty(2 * LANES, np.float32), np.zeros(1, np.float64)
        near_codes, near_draws = np.empty(LANES, codes.dtype), np.empty(LANES, np.uint32)
        at, drawn, begin, number, missed, step = 0, 0, 0, 0, 0, np.float32(0)
        means = signs and quiet
        while at < x.size:
            if ends.size:
                while ends[number] <= first + at:
                    number += 1
                end, step = min(x.size, ends[number] - first), steps[number]
            else:
                number, end = at // block, min(x.size, at + block)
                total[0] = 0.0
                largest = measure(x, residual, at, end, near, total, means)
                step = np.float32(total[0] / (end - at)) if means else largest / np.float32(limit)
                step = np.float32(0) if largest < _LEAST else step
                steps[number] = step
                if not largest < np.inf:
                    steps[number] = np.nan
                    missed += spoil(x, residual, codes, at, end)
                    at = end
            while at < end:
                if drawn <= at:
                    begin, drawn = at, min(x.size, at + _TILE - (first + at) % _TILE)
                    draw(draws, drawn - begin, first + begin, noise, work)
                stop = min(end, drawn)
                careful = ends.size > 0 and not measure(x, residual, at, stop, near, total, False) < np.inf
                missed += encode(
                    x, residual, codes, draws, at, stop, begin, step, np.float32(limit), signs, careful,
                    near, near_codes, near_draws,
                )  # fmt: skip
                at = stop
        return missed

    floats, integers = array("float32"), types.int64
    return kernel(
        quantize_runs, variant.label, array("float32", readonly=True), floats, array(variant.codes), floats,
        integers, array("int64", readonly=True), integers, integers, types.boolean,
        array("uint64", 2, readonly=True),
    )  # fmt: skip


@functools.cache
def _measure() -> Kernel:
    """Helper (x, residual, at, stop, near, total, means): the largest magnitude; NaN or infinite if any is.

    Where `means`, total[0] grows by the sum of magnitudes.
    """
    of_x, of_both = (make_largest(fed=fed, means=False) for fed in (False, True))
    mean_of_x, mean_of_both = (make_largest(fed=fed, means=True) for fed in (False, True))

    def measure_run(x: Any, residual: Any, at: Any, stop: Any, near: Any, total: Any, means: Any) -> Any:
        fed, whole = residual.size > 0, at + (stop - at) // LANES * LANES
        values, kept = borrow(x, at, whole), borrow(residual, at, whole) if fed else borrow(residual, 0, 0)
        if means:
            top = mean_of_both(values, kept, total) if fed else mean_of_x(values, kept, total)
        else:
            top = of_both(values, kept, total) if fed else of_x(values, kept, total)
        if whole < stop:
            for i in range(LANES):
                there = whole + i < stop
                near[i] = x[whole + i] if there else np.float32(0)
                near[LANES + i] = residual[whole + i] if there and fed else np.float32(0)
            rest = mean_of_both(borrow(near, 0, LANES), borrow(near, LANES, 2 * LANES), total)
            if top < np.inf and not rest <= top:
                top = rest
        return top

    return device(measure_run, "block")


def _make_encode(variant: _Variant) -> Kernel:
    """Helper: codes and residuals from x[at] up to x[stop], of one step; how many values were not finite.

    `draws[0]` belongs to x[begin]. Where it is to be `careful`, a value that is not finite counts as 0.
    """
    noisy = variant.noisy is not None
    of_x, of_both = (make_encode(noisy=noisy, fed=fed) for fed in (False, True))

    def encode_run(
        x: Any, residual: Any, codes: Any, draws: Any, at: Any, stop: Any, begin: Any, step: Any, limit: Any,
        signs: Any, careful: Any, near: Any, near_codes: Any, near_draws: Any,
    ) -> Any:  # fmt: skip
        fed, size, missed, done = residual.size > 0, stop - at, 0, 0
        scale = np.float32(1) / step if step > 0 else np.float32(0)
        values, words, chances = (
            borrow(x, at, stop),
            borrow(codes, at, stop),
            borrow(draws, at - begin, stop - begin),
        )
        kept = borrow(residual, at, stop) if fed else borrow(residual, 0, 0)
        if not careful:
            while done + LANES <= size:
                if fed:
                    of_both(values, kept, words, chances, done, scale, step, limit, signs)
                else:
                    of_x(values, kept, words, chances, done, scale, step, limit, signs)
                done += LANES
        near_x, near_kept = borrow(near, 0, LANES), borrow(near, LANES, 2 * LANES)
        while done < size:
            count = min(LANES, size - done)
            for i in range(count):
                near_x[i], near_draws[i] = values[done + i], chances[done + i]
                near_kept[i] = kept[done + i] if fed else np.float32(0)
                if not abs(near_x[i] + near_kept[i]) < np.inf:
                    near_x[i] = near_kept[i] = 0.0
                    missed += 1
            of_both(near_x, near_kept, near_codes, near_draws, 0, scale, step, limit, signs)
            for i in range(count):
                words[done + i] = near_codes[i]
                if fed and abs(values[done + i] + kept[done + i]) < np.inf:
                    kept[done + i] = near_kept[i]
            done += count
        return missed

    return device(encode_run, variant.label)


@functools.cache
def _spoil_run() -> Kernel:
    return device(_spoil, "block")


def _spoil(x: Any, residual: Any, codes: Any, at: Any, end: Any) -> Any:
    """Codes 0 for a block that is not finite; how many of its values are not."""
    missed = 0
    for i in range(at, end):
        codes[i] = 0
        value = x[i] + residual[i] if residual.size else x[i]
        missed += not (abs(value) < np.inf)
    return missed


def dequantize_blocks(codes: Codes, steps: Float32, out: Float32, block: int) -> None:
    """See `silofl_kernels.dequantize_blocks`."""
    _dequantize_kernel(dtype_name(codes.dtype))(codes, steps, block, _NO_ENDS, 0, out)


def dequantize_segments(
    codes: Codes, steps: Float32, out: Float32, ends: NDArray[np.int64], first: int
) -> None:
    """See `silofl_kernels.dequantize_segments`."""
    _dequantize_kernel(dtype_name(codes.dtype))(codes, steps, 0, ends, first, out)


@functools.cache
def _dequantize_kernel(codes: str) -> Kernel:
    def dequantize_runs(codes: Any, steps: Any, block: Any, ends: Any, first: Any, out: Any) -> None:
        at, number = 0, 0
        while at < out.size:
            if ends.size:
                while ends[number] <= first + at:
                    number += 1
                stop = min(out.size, ends[number] - first)
            else:
                number, stop = at // block, min(out.size, at + block)
            run, floats, step = borrow(codes, at, stop), borrow(out, at, stop), steps[number]
            for i in range(run.size):
                floats[i] = np.float32(run[i]) * step
            at = stop

    return kernel(
        dequantize_runs, codes, array(codes, readonly=True), array("float32", readonly=True), types.int64,
        array("int64", readonly=True), types.int64, array("float32"),
    )  # fmt: skip
