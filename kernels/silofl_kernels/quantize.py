"""Fixed point: floats to words of the ring and back.

q = round(x * scale), limited to [-limit, limit], as two's complement of B bits. The product is formed in
float32 where x is float32 and B at most 16, in float64 otherwise; `scale` carries the weight of the silo.

Rounding is to nearest, ties to even (IEEE 754-2019, section 4.3.1), or stochastic: up with a probability
equal to the fraction, decided by 32-bit word i of a secret stream for coordinate i and nothing else, so that
a chunk made again is the same bit for bit. Its bias is below 2^-24 (float32) or 2^-32 (float64) of a step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats, check_same_size, check_vector
from silofl_kernels.prg import check_span
from silofl_kernels.ring import Words, ring_bits, ring_limit
from silofl_kernels.streams import Stream


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
    backend = backend_of(x, out)
    check_quantize(x, out, scale, limit)
    check_rounding(rounding, offset, x.size)
    return counts(backend.quantize(x, out, scale, limit, offset, rounding))


def dequantize(words: Words, out: Floats, *, step: float) -> None:
    """Write the signed value of each word times `step` over `out`, rounded once (the product is float64).

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous. Not changed.
        out: float32 or float64 (k,), contiguous and writable.
        step: value of one ring unit.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(words, out)
    ring_bits(words)
    check_vector("words", words)
    check_floats("out", out, writable=True)
    check_same_size(words, out)
    backend.dequantize(words, out, step)


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


def check_rounding(rounding: Stream | None, first: int, size: int) -> None:
    """Refuse coordinates that are negative or that the rounding stream does not reach."""
    if first < 0:
        raise ValueError(f"a coordinate is not negative: {first}")
    if rounding is not None:
        check_span(rounding.prg, 4 * first, 4 * size)


def counts(result: tuple[int, int]) -> Counts:
    """Counts from what a kernel returns: values beyond the limit or not finite, and values not finite."""
    outside, nonfinite = result
    return Counts(outside - nonfinite, nonfinite)
