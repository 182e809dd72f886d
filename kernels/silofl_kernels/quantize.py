"""Fixed point: floats to words of the ring and back.

q = round(x * scale), limited to [-limit, limit], as two's complement of B bits. The product is formed in
float32 where x is float32 and B at most 16, in float64 otherwise; `scale` carries the weight of the silo.

Rounding is to nearest, ties to even (IEEE 754-2019, section 4.3.1), or stochastic: up with a probability
equal to the fraction, decided by 32-bit word i of a secret stream for coordinate i and nothing else, so that
a chunk made again is the same bit for bit. Its bias is below 2^-24 (float32) or 2^-32 (float64) of a step.
"""

from __future__ import annotations

import functools
import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats, check_same_size, check_vector
from silofl_kernels.prg import check_span
from silofl_kernels.ring import Words, ring_bits, ring_limit
from silofl_kernels.segments import NO_END, Segments, check_ends, check_range, one_segment
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
    scale: float | None = None,
    limit: int | None = None,
    segments: Segments | None = None,
    first: int = 0,
    rounding: Stream | None = None,
) -> Counts:
    """Write round(x * scale), limited, over `out`.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.
        out: uint8, uint16 or uint32 (k,), contiguous and writable.
        scale: words per unit of x, finite; the weight of the silo is a factor of it.
        limit: largest magnitude of a word, 1 to 2^(B-1) - 1.
        segments: in place of `scale` and `limit`, those of each tensor of the vector that x is a part of;
            each gets the words that it would get alone.
        first: coordinate of x[0] in the whole vector; matters to segments and stochastic rounding only.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even.

    Returns:
        How many values were clipped and how many were not finite.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, out)
    parts = check_quantize(x, out, scale, limit, segments, first)
    check_rounding(rounding, first, x.size)
    return counts(backend.quantize(x, out, parts, first, rounding))


def dequantize(
    words: Words,
    out: Floats,
    *,
    step: float | None = None,
    steps: NDArray[np.float64] | None = None,
    ends: NDArray[np.int64] | None = None,
    first: int = 0,
) -> None:
    """Write the signed value of each word times `step` over `out`, rounded once (the product is float64).

    Args:
        words: uint8, uint16 or uint32 (k,), contiguous. Not changed.
        out: float32 or float64 (k,), contiguous and writable.
        step: value of one ring unit.
        steps: in place of `step`, float64 (m,): value of one ring unit in each segment.
        ends: with `steps`, int64 (m,): where each segment ends, as `Segments.ends`.
        first: with `steps`, coordinate of words[0] in the vector that segments divide.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(words, out)
    ring_bits(words)
    check_vector("words", words)
    check_floats("out", out, writable=True)
    check_same_size(words, out)
    backend.dequantize(words, out, *check_steps(step, steps, ends, first, words.size), first)


def check_quantize(
    x: Floats,
    out: Words,
    scale: float | None,
    limit: int | None,
    segments: Segments | None,
    first: int,
) -> Segments:
    """Refuse arguments that no kernel may see; the segments, one where a single scale is given."""
    check_floats("x", x)
    bits = ring_bits(out)
    check_vector("out", out, writable=True)
    check_same_size(x, out)
    parts = _segments(scale, limit, segments)
    check_range(first, x.size, parts.size)
    if parts.largest_limit > ring_limit(bits):
        raise ValueError(
            f"limit is 1 to {ring_limit(bits)} in a ring of {bits} bits, not {parts.largest_limit}"
        )
    return parts


def _segments(scale: float | None, limit: int | None, segments: Segments | None) -> Segments:
    if segments is not None and scale is None and limit is None:
        return segments
    if segments is None and scale is not None and limit is not None:
        return one_segment(float(scale), operator.index(limit))
    raise ValueError("quantization takes either a scale and a limit or segments")


def check_error(error: NDArray[np.float64], count: int) -> None:
    """Refuse what the sums of an encoding's error cannot be added to."""
    if error.dtype != np.float64 or error.shape != (count, 2):
        raise ValueError(f"error is float64 ({count}, 2), not {error.dtype} {error.shape}")
    if not (error.flags.c_contiguous and error.flags.writeable):
        raise ValueError("error is contiguous and writable")


def check_steps(
    step: float | None,
    steps: NDArray[np.float64] | None,
    ends: NDArray[np.int64] | None,
    first: int,
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Ends and steps of segments, of one where a single step is given."""
    if steps is None and ends is None and step is not None:
        return _one_step(float(step))
    if step is not None or steps is None or ends is None:
        raise ValueError("give either a step, or steps and ends of segments")
    check_ends(ends)
    if steps.dtype != np.float64 or steps.shape != ends.shape or not steps.flags.c_contiguous:
        raise ValueError(f"steps are a contiguous float64 vector, one for each of {len(ends)} segments")
    check_range(first, count, int(ends[-1]) if len(ends) else 0)
    return ends, steps


@functools.lru_cache(maxsize=64)
def _one_step(step: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.array([NO_END]), np.array([step])


def check_rounding(rounding: Stream | None, first: int, size: int) -> None:
    """Refuse coordinates that the rounding stream does not reach."""
    if rounding is not None:
        check_span(rounding.prg, 4 * first, 4 * size)


def counts(result: tuple[int, int]) -> Counts:
    """Counts from what a kernel returns: values beyond the limit or not finite, and values not finite."""
    outside, nonfinite = result
    return Counts(outside - nonfinite, nonfinite)
