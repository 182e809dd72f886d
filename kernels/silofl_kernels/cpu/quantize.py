"""Quantization on the CPU, with or without masks: see `silofl_kernels.quantize` for the arithmetic."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import Floats, dtype_name
from silofl_kernels.cpu import features
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.masking import mask_types
from silofl_kernels.cpu.rounding import CURSOR, OUTSIDE, SUM_LANES
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.cpu.tiles import TILE, Variant, make_tile
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words, ring_bits

if TYPE_CHECKING:
    from silofl_kernels.masking import MaskSet
    from silofl_kernels.segments import Segments
    from silofl_kernels.streams import Stream

_NO_KEYS, _NO_ERROR = np.zeros((0, 0), np.uint64), np.zeros((0, 2))


def quantize(
    x: Floats,
    out: Words,
    segments: Segments,
    first: int,
    rounding: Stream | None,
) -> tuple[int, int]:
    """See `silofl_kernels.quantize`; how many values were out of bounds, and how many not finite."""
    return _run(x, out, segments, first, rounding, _NO_ERROR, None, (_NO_KEYS, 0), first)


def quantize_and_mask(
    x: Floats,
    out: Words,
    segments: Segments,
    first: int,
    rounding: Stream | None,
    error: NDArray[np.float64],
    masks: MaskSet,
    offset: int,
) -> tuple[int, int]:
    """See `silofl_kernels.quantize_and_mask`; how many values were out of bounds, and how many not finite."""
    return _run(x, out, segments, first, rounding, error, family(masks.prg), masks.prepared, offset)


def _run(
    x: Floats,
    out: Words,
    segments: Segments,
    first: int,
    rounding: Stream | None,
    error: NDArray[np.float64],
    kind: Family | None,
    prepared: tuple[NDArray[np.uint64], int],
    offset: int,
) -> tuple[int, int]:
    noise_kind = family(rounding.prg) if rounding is not None else None
    used = kind or noise_kind
    variant = Variant(dtype_name(x.dtype), ring_bits(out), noise_kind, kind)
    code = _quantize_kernel(variant, features.path(used) if used else "")
    outside, nonfinite = code(
        x, out, segments.ends, segments.scales, segments.limits, first,
        rounding.prepared if rounding is not None else _NO_KEYS, *prepared, offset, error,
    )  # fmt: skip
    return outside, nonfinite


@functools.cache
def _quantize_kernel(variant: Variant, path: str) -> Kernel:
    """Kernel (x, out, ends, scales, limits, first, noise, schedules, added, offset, error) -> two counts."""
    code = make_tile(variant)
    tile, draw, real = code.tile, code.draw, code.real
    count = device(_nonfinite, code.label)

    def quantize_vector(
        x: Any,
        out: Any,
        ends: Any,
        scales: Any,
        limits: Any,
        first: Any,
        noise: Any,
        schedules: Any,
        added: Any,
        offset: Any,
        error: Any,
    ) -> Any:
        outside, nonfinite, start = 0, 0, 0
        draws, work = np.empty(TILE, np.uint32), np.empty(WORK_WORDS, np.uint64)
        private = np.empty(TILE, out.dtype)
        cursor, sums = np.zeros(CURSOR, np.int64), np.zeros(2 * SUM_LANES, real)
        while start < x.size:
            stop = min(x.size, start + TILE - (offset + start) % TILE)
            values, words = borrow(x, start, stop), borrow(out, start, stop)
            draw(draws, values.size, first + start, noise, work)
            tile(
                values, words, ends, scales, limits, first + start, cursor, draws,
                offset + start, schedules, added, work, sums, error, private,
            )  # fmt: skip
            if cursor[OUTSIDE]:
                outside += cursor[OUTSIDE]
                nonfinite += count(values)
            start = stop
        return outside, nonfinite

    vector = functools.partial(array, readonly=True)
    return kernel(
        quantize_vector, code.label, vector(variant.x), array(f"uint{variant.bits}"), vector("int64"),
        vector("float64"), vector("int64"), types.int64, vector("uint64", 2), *mask_types(), types.int64,
        array("float64", 2),
    )  # fmt: skip


def _nonfinite(x: Any) -> Any:
    count = 0
    for i in range(x.size):
        count += not (abs(x[i]) < np.inf)
    return count


def dequantize(
    words: Words, out: Floats, ends: NDArray[np.int64], steps: NDArray[np.float64], first: int
) -> None:
    """See `silofl_kernels.dequantize`."""
    _dequantize_kernel(ring_bits(words), dtype_name(out.dtype))(words, ends, steps, first, out)


@functools.cache
def _dequantize_kernel(bits: int, out: str) -> Kernel:
    scale_runs = dequantizer(bits, out)

    def dequantize_vector(words: Any, ends: Any, steps: Any, first: Any, out: Any) -> None:
        scale_runs(words, out, ends, steps, 0, first)

    return kernel(
        dequantize_vector, f"{bits}_{out}", array(f"uint{bits}", readonly=True),
        array("int64", readonly=True), array("float64", readonly=True), types.int64, array(out),
    )  # fmt: skip


def dequantizer(bits: int, out: str) -> Kernel:
    """Helper (words, out, ends, steps, segment, first): signed words times their segment's step.

    `segment` is that of coordinate `first`, the first word's, or one before it; returns the last one's.
    """
    signed: Any = {8: np.int8, 16: np.int16, 32: np.int32}[bits]

    def scale_runs(words: Any, out: Any, ends: Any, steps: Any, segment: Any, first: Any) -> Any:
        start = 0
        while start < words.size:
            while ends[segment] <= first + start:
                segment += 1
            stop, step = min(words.size, ends[segment] - first), steps[segment]
            run, floats = borrow(words, start, stop), borrow(out, start, stop)
            for i in range(run.size):
                floats[i] = np.float64(signed(run[i])) * step
            start = stop
        return segment

    return device(scale_runs, f"{bits}_{out}")
