"""Fixed point: floats to words of the ring and back.

q = round(x * scale), limited to [-limit, limit], as two's complement of B bits. The product is formed in
float32 where x is float32 and B at most 16, in float64 otherwise; `scale` carries the weight of the silo.

Rounding is to nearest, ties to even (IEEE 754-2019, section 4.3.1), or stochastic: up with a probability
equal to the fraction, decided by 32-bit word i of a secret stream for coordinate i and nothing else, so that
a chunk made again is the same bit for bit. Its bias is below 2^-24 (float32) or 2^-32 (float64) of a step.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from silofl_kernels import features, streams
from silofl_kernels.jit import Kernel, array, device, kernel
from silofl_kernels.ring import Words, ring_bits, ring_limit
from silofl_kernels.rounding import LANES, make_round_lanes, make_round_one
from silofl_kernels.rows import borrow
from silofl_kernels.streams import WORK_WORDS, Stream

Floats = NDArray[np.floating[Any]]

TILE = 16384
"""Elements between two looks at the counters; a multiple of every step of every cipher."""


class Counts(NamedTuple):
    """What a quantization met. Words of a vector with `nonfinite` > 0 are not to be used."""

    clipped: int
    """Finite values that were beyond the limit and became it."""
    nonfinite: int
    """NaN and infinite values, now the limit too."""


def quantize(
    x: Floats,
    out: Words,
    *,
    scale: float,
    limit: int,
    offset: int = 0,
    rounding: Stream | None = None,
) -> Counts:
    """Write round(x * scale), limited, over `out`.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.
        out: uint8, uint16 or uint32 (k,), contiguous and writable.
        scale: words per unit of x, finite; the weight of the silo is a factor of it.
        limit: largest magnitude of a word, 1 to 2^(B-1) - 1.
        offset: coordinate of x[0] in the whole vector; matters to stochastic rounding only.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even.

    Returns:
        How many values were clipped and how many were not finite.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    check_quantize(x, out, scale, limit)
    noise, kind = rounding_stream(rounding, offset, x.size)
    code = _quantize_kernel(x.dtype.name, ring_bits(out), kind, features.path(kind) if kind else "")
    return finish(code(x, out, scale, limit, offset, noise))


def dequantize(words: Words, out: Floats, *, step: float) -> None:
    """Write the signed value of each word times `step` over `out`, rounded once (the product is float64).

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous. Not changed.
        out: float32 or float64 (k,), contiguous and writable.
        step: value of one ring unit.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    ring_bits(words)
    check_vector("words", words)
    check_floats("out", out, writable=True)
    check_same_size(words, out)
    _dequantize_kernel(words.dtype.name, out.dtype.name)(words, step, out)


def check_quantize(x: Floats, out: Words, scale: float, limit: int) -> None:
    """Refuse arguments that no kernel may see."""
    check_floats("x", x)
    bits = ring_bits(out)
    check_vector("out", out, writable=True)
    check_same_size(x, out)
    if not math.isfinite(scale):
        raise ValueError(f"scale is finite, not {scale}")
    if not 1 <= limit <= ring_limit(bits):
        raise ValueError(f"limit is 1 to {ring_limit(bits)} in a ring of {bits} bits, not {limit}")


def check_floats(name: str, x: NDArray[Any], *, writable: bool = False) -> None:
    """Refuse anything but a contiguous vector of float32 or float64."""
    if x.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is float32 or float64, not {x.dtype}")
    check_vector(name, x, writable=writable)


def check_vector(name: str, x: NDArray[Any], *, writable: bool = False) -> None:
    """Refuse anything but an aligned, contiguous vector."""
    if x.ndim != 1 or not (x.flags.c_contiguous and x.flags.aligned):
        raise ValueError(f"{name} is one-dimensional, contiguous and aligned")
    if writable and not x.flags.writeable:
        raise ValueError(f"{name} is written to, and read-only")


def check_same_size(left: NDArray[Any], right: NDArray[Any]) -> None:
    """Refuse two vectors of unequal length."""
    if left.size != right.size:
        raise ValueError(f"two vectors of {left.size} and {right.size} elements")


def rounding_stream(
    rounding: Stream | None, offset: int, size: int
) -> tuple[NDArray[np.uint64], features.Family | None]:
    """Prepared key and cipher of the rounding stream; no rows and None for rounding to nearest."""
    if offset < 0:
        raise ValueError(f"an offset is not negative: {offset}")
    if rounding is None:
        return np.zeros((0, 0), np.uint64), None
    streams.check_span(rounding.prg, 4 * offset, 4 * size)
    return rounding.prepared, streams.family(rounding.prg)


def finish(result: tuple[int, int]) -> Counts:
    """Counts from what a kernel returns: values beyond the limit or not finite, and values not finite."""
    outside, nonfinite = result
    return Counts(outside - nonfinite, nonfinite)


def signed_type(bits: int) -> Any:
    """NumPy's scalar type of signed words."""
    return {8: np.int8, 16: np.int16, 32: np.int32}[bits]


@functools.cache
def _quantize_kernel(x: str, bits: int, kind: features.Family | None, path: str) -> Kernel:
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


def make_rounder(x: str, bits: int, kind: features.Family | None) -> Rounder:
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
