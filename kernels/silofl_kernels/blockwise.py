"""Codes of few bits with one step for each block: quantization for compression, with error feedback.

A value v becomes a signed code c of b bits and is decoded as c * step, one float32 product. The grid is
symmetric, |c| <= 2^(b-1) - 1; codes of one bit are the signs, -1 and +1. Codes of up to 8 bits are int8,
wider ones int16; `pack_bits` makes them as small as they are.

Rounding is to nearest, ties to even, or stochastic: bits i of a stream decide about coordinate i and nothing
else, so that any block encoded again, or alone, is the same bit for bit. Stochastic codes are unbiased but
for 2^-23 of a step; a stochastic sign is +1 with probability (1 + v / step) / 2.

With error feedback (Seide et al. 2014; Karimireddy et al. 2019, algorithm 2) v is value + residual, and what
the code loses, v - c * step, is the next residual: one float32 subtraction, exact (Sterbenz 1974) but for a
stochastic or clipped code of another sign or more than one step away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import check_same_size, check_vector
from silofl_kernels.quantize import check_rounding
from silofl_kernels.segments import check_ends, check_range
from silofl_kernels.streams import Stream

Codes = NDArray[np.signedinteger[Any]]
Float32 = NDArray[np.float32]

MOST_BITS = 16
"""Widest code."""


def code_dtype(bits: int) -> np.dtype[Any]:
    """Dtype of signed codes of `bits` bits.

    Raises:
        ValueError: `bits` is not 1 to 16.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"a code has 1 to {MOST_BITS} bits, not {bits}")
    return np.dtype(np.int8 if bits <= 8 else np.int16)


def code_limit(bits: int) -> int:
    """Largest magnitude of a code of `bits` bits: 2^(bits-1) - 1, and 1 for a sign."""
    return max(1, (1 << bits - 1) - 1)


def quantize_blocks(
    x: Float32,
    codes: Codes,
    steps: Float32,
    *,
    bits: int,
    block: int,
    first: int = 0,
    residual: Float32 | None = None,
    rounding: Stream | None = None,
) -> int:
    """Write the codes of `x`, and the step that each block of it gets, over `codes` and `steps`.

    The step of a block is max |v| / limit, so that nothing is clipped; of signs to nearest it is the mean of
    |v|, of stochastic ones max |v|. Below 2^-100 it is 0, and so are the values. A block with a NaN or an
    infinity, in x or in the residual, has step NaN and codes 0, and keeps its residual.

    Args:
        x: float32 (k,), contiguous. Not changed.
        codes: int8 (up to 8 bits) or int16 (k,), contiguous and writable.
        steps: float32 (ceil(k / block),), contiguous and writable.
        bits: bits of a code, 1 to 16.
        block: length of a block, from 1; the last may be shorter.
        first: coordinate of x[0] in the whole vector; matters to stochastic rounding only.
        residual: float32 (k,), contiguous and writable: added to x, and then what this encoding lost.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even.

    Returns:
        How many values were not finite.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, codes, steps, *_given(residual))
    _check_codes(x, codes, bits, residual)
    check_float32("steps", steps, writable=True)
    check_blocks(block, steps.size, x.size)
    check_rounding(rounding, first, x.size)
    return backend.quantize_blocks(x, codes, steps, bits, block, first, residual, rounding)


def quantize_segments(
    x: Float32,
    codes: Codes,
    steps: Float32,
    *,
    bits: int,
    ends: NDArray[np.int64],
    first: int = 0,
    residual: Float32 | None = None,
    rounding: Stream | None = None,
) -> int:
    """Write the codes of `x` over `codes`, with steps that were agreed on: one for each segment.

    What is beyond the grid is clipped, and stays in the residual. A value that is not finite has code 0 (+1
    where codes are signs) and keeps its residual. In a segment of step 0 all values are 0.

    Args:
        x: float32 (k,), contiguous. Not changed.
        codes: int8 (up to 8 bits) or int16 (k,), contiguous and writable.
        steps: float32 (m,), contiguous: value of code 1 in each segment, 0 or 2^-120 to 2^120.
        bits: bits of a code, 1 to 16.
        ends: int64 (m,), where each segment ends, as `Segments.ends`.
        first: coordinate of x[0] in the whole vector.
        residual: float32 (k,), contiguous and writable: added to x, and then what this encoding lost.
        rounding: the stream that decides stochastic rounding; None rounds to nearest even.

    Returns:
        How many values were not finite.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, codes, *_given(residual))
    _check_codes(x, codes, bits, residual)
    _check_parts(steps, ends, first, x.size)
    if not np.all((steps == 0) | ((steps >= 2.0**-120) & (steps <= 2.0**120))):
        raise ValueError("a step is 0, or between 2^-120 and 2^120")
    check_rounding(rounding, first, x.size)
    return backend.quantize_segments(x, codes, steps, bits, ends, first, residual, rounding)


def dequantize_blocks(codes: Codes, steps: Float32, out: Float32, *, block: int) -> None:
    """Write code * step over `out`, one float32 product; a step of NaN spoils its block.

    Args:
        codes: int8 or int16 (k,), contiguous. Not changed.
        steps: float32 (ceil(k / block),), contiguous.
        out: float32 (k,), contiguous and writable.
        block: length of a block, from 1.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(codes, steps, out)
    _check_decoded(codes, out)
    check_float32("steps", steps)
    check_blocks(block, steps.size, codes.size)
    backend.dequantize_blocks(codes, steps, out, block)


def dequantize_segments(
    codes: Codes, steps: Float32, out: Float32, *, ends: NDArray[np.int64], first: int = 0
) -> None:
    """Write code * step over `out`, with one step for each segment; one float32 product.

    Args:
        codes: int8 or int16 (k,), contiguous. Not changed.
        steps: float32 (m,), contiguous.
        out: float32 (k,), contiguous and writable.
        ends: int64 (m,), where each segment ends, as `Segments.ends`.
        first: coordinate of codes[0] in the whole vector.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(codes, out)
    _check_decoded(codes, out)
    _check_parts(steps, ends, first, codes.size)
    backend.dequantize_segments(codes, steps, out, ends, first)


def check_float32(name: str, x: NDArray[Any], *, writable: bool = False) -> None:
    """Refuse anything but a contiguous vector of float32."""
    if x.dtype != np.float32:
        raise TypeError(f"{name} is float32, not {x.dtype}")
    check_vector(name, x, writable=writable)


def check_blocks(block: int, steps: int, size: int) -> None:
    """Refuse a length of a block, or steps that do not go with it."""
    if block < 1:
        raise ValueError(f"a block has at least one value, not {block}")
    if steps != -(-size // block):
        raise ValueError(f"{steps} steps for {-(-size // block)} blocks")


def _given(residual: Float32 | None) -> list[Float32]:
    return [] if residual is None else [residual]


def _check_codes(x: Float32, codes: Codes, bits: int, residual: Float32 | None) -> None:
    check_float32("x", x)
    if codes.dtype != code_dtype(bits):
        raise TypeError(f"codes of {bits} bits are {code_dtype(bits)}, not {codes.dtype}")
    check_vector("codes", codes, writable=True)
    check_same_size(x, codes)
    if residual is not None:
        check_float32("residual", residual, writable=True)
        check_same_size(x, residual)


def _check_decoded(codes: Codes, out: Float32) -> None:
    if codes.dtype not in (np.int8, np.int16):
        raise TypeError(f"codes are int8 or int16, not {codes.dtype}")
    check_vector("codes", codes)
    check_float32("out", out, writable=True)
    check_same_size(codes, out)


def _check_parts(steps: Float32, ends: NDArray[np.int64], first: int, count: int) -> None:
    check_ends(ends)
    check_float32("steps", steps)
    check_same_size(steps, ends)
    check_range(first, count, int(ends[-1]) if len(ends) else 0)
