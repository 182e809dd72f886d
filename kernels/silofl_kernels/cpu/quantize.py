"""Quantization on the CPU, tile by tile: see `silofl_kernels.quantize` for the arithmetic."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels.checks import Floats
from silofl_kernels.cpu import features, streams
from silofl_kernels.cpu.jit import Kernel, array, device, kernel
from silofl_kernels.cpu.rounding import LANES, make_round_lanes, make_round_one
from silofl_kernels.cpu.rows import borrow
from silofl_kernels.cpu.streams import WORK_WORDS
from silofl_kernels.prg import Family, family
from silofl_kernels.ring import Words, ring_bits

if TYPE_CHECKING:
    from silofl_kernels.streams import Stream

TILE = 16384
"""Elements between two looks at the counters; a multiple of every step of every cipher."""


def quantize(
    x: Floats, out: Words, scale: float, limit: int, first: int, rounding: Stream | None
) -> tuple[int, int]:
    """See `silofl_kernels.quantize`; how many values were out of bounds, and how many not finite."""
    noise, kind = rounding_stream(rounding)
    code = _quantize_kernel(x.dtype.name, ring_bits(out), kind, features.path(kind) if kind else "")
    outside, nonfinite = code(x, out, scale, limit, first, noise)
    return outside, nonfinite


def dequantize(words: Words, out: Floats, step: float) -> None:
    """See `silofl_kernels.dequantize`."""
    _dequantize_kernel(words.dtype.name, out.dtype.name)(words, step, out)


def rounding_stream(rounding: Stream | None) -> tuple[NDArray[np.uint64], Family | None]:
    """Prepared key and cipher of the rounding stream; no rows and None for rounding to nearest."""
    if rounding is None:
        return np.zeros((0, 0), np.uint64), None
    return rounding.prepared, family(rounding.prg)


def signed_type(bits: int) -> Any:
    """NumPy's scalar type of signed words."""
    return {8: np.int8, 16: np.int16, 32: np.int32}[bits]


@functools.cache
def _quantize_kernel(x: str, bits: int, kind: Family | None, path: str) -> Kernel:
    """Kernel (x, out, scale, limit, first, noise) -> (outside, nonfinite)."""
    rounder = make_rounder(x, bits, kind)
    draw, span, count = rounder.draw, rounder.span, rounder.nonfinite

    def quantize_vector(x: Any, out: Any, scale: Any, limit: Any, first: Any, noise: Any) -> Any:
        outside, nonfinite, start = 0, 0, 0
        draws, work = np.empty(TILE, np.uint32), np.empty(WORK_WORDS, np.uint64)
        while start < x.size:
            stop = min(x.size, start + TILE - (first + start) % TILE)
            values, tile = borrow(x, start, stop), borrow(out, start, stop)
            draw(draws, values.size, first + start, noise, work)
            met = span(values, tile, 0, values.size, scale, limit, draws)
            if met:
                outside += met
                nonfinite += count(values)
            start = stop
        return outside, nonfinite

    return kernel(quantize_vector, rounder.label, *rounder.parameters)


class Rounder(NamedTuple):
    """Code that quantizes a tile, for one kind of input, ring and rounding."""

    label: str
    parameters: tuple[types.Type, ...]
    """Types of x, out, scale, limit, first, noise."""
    draw: Kernel
    """(draws, size, first, noise, work): random bits from coordinate `first` on, where rounding needs any."""
    span: Kernel
    """(x, out, start, stop, scale, limit, draws) -> how many of x[start:stop] were out of bounds."""
    nonfinite: Kernel
    """(x) -> how many are NaN or infinite."""


def make_rounder(x: str, bits: int, kind: Family | None) -> Rounder:
    """Code for input dtype `x`, words of `bits` bits, and stochastic rounding by cipher `kind` or to nearest.

    The product is formed in float32 where x is float32 and 24 bits hold every word, in float64 otherwise.
    """
    noisy, single = kind is not None, x == "float32" and bits <= 16
    real = types.float32 if single else types.float64
    parameters = (
        array(x, readonly=True), array(f"uint{bits}"), real, real, types.int64,
        array("uint64", 2, readonly=True),
    )  # fmt: skip
    if kind is None:
        label, draw = f"{x}_{bits}_nearest", device(_draw_nothing, "nearest")
    else:
        code = streams.steps(kind, 32)
        label, draw = f"{x}_{bits}_{code.name}", _make_draw(code)
    span = _make_span(label, noisy=noisy, single=single)
    return Rounder(label, parameters, draw, span, device(_nonfinite, label))


def _make_span(label: str, *, noisy: bool, single: bool) -> Kernel:
    one = make_round_one(noisy=noisy, single=single, label=label)
    lanes = make_round_lanes(noisy=noisy)
    vectors = not features.without_jit()

    def round_span(x: Any, out: Any, start: Any, stop: Any, scale: Any, limit: Any, draws: Any) -> Any:
        outside, at = 0, start
        if vectors:
            while at + LANES <= stop:
                outside += lanes(x, at, scale, limit, draws, out)
                at += LANES
        for i in range(at, stop):
            value = one(x[i] * scale, draws[i])
            if abs(value) <= limit:
                out[i] = np.int32(value)
            else:
                outside += 1
                out[i] = np.int32(-limit if value < 0 else limit)
        return outside

    return device(round_span, label)


def _make_draw(code: streams.Steps) -> Kernel:
    fill = code.fill

    def draw_stream(draws: Any, size: Any, first: Any, noise: Any, work: Any) -> None:
        fill(borrow(draws, 0, size), first, noise, work)

    return device(draw_stream, code.name)


def _draw_nothing(draws: Any, size: Any, first: Any, noise: Any, work: Any) -> None:
    return


def _nonfinite(x: Any) -> Any:
    count = 0
    for i in range(x.size):
        count += not (abs(x[i]) < np.inf)
    return count


@functools.cache
def _dequantize_kernel(words: str, out: str) -> Kernel:
    signed = signed_type(int(words.removeprefix("uint")))

    def dequantize_vector(words: Any, step: Any, out: Any) -> None:
        for i in range(words.size):
            out[i] = np.float64(signed(words[i])) * step

    return kernel(dequantize_vector, f"{words}_{out}", array(words, readonly=True), types.float64, array(out))
