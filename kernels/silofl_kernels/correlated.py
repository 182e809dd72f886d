"""Noise that makes up for noise of before: discrete Gaussians around centres that past noise decides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import check_vector
from silofl_kernels.noise import SAMPLE_BYTES
from silofl_kernels.prg import check_span
from silofl_kernels.streams import Stream

MOST_COEFFICIENT = 1 << 20
"""In magnitude: sums of products with 32-bit samples then fit into 64 bits."""


def correlate_noise(
    out: NDArray[np.int32],
    past: NDArray[np.int32],
    coefficients: NDArray[np.int64],
    stream: Stream,
    *,
    position: int = 0,
) -> None:
    """Add to each element of `out` a discrete Gaussian of variance 5 around a centre made of past noise.

    The centre of element i is -sum_r coefficients[r] past[r, position + i] / 64. Where `out` holds discrete
    Gaussians of variance v - 5 around 0 (`draw_noise`) it then holds such of variance v around the centres:
    `centred_table` says how nearly. Sample i is a function of the key and i alone, in the words of the stream
    that `noise` says.

    Args:
        out: int32 (k,), contiguous and writable.
        past: int32 (r, d), C-contiguous, d >= position + k: noise of before, a row each.
        coefficients: int64 (r,), whole numbers of 64ths of magnitude `MOST_COEFFICIENT` at most.
        stream: the secret stream, used for nothing else.
        position: the coordinate of out[0] in the whole vector, which numbers the samples, too.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(out, past)
    if out.dtype != np.int32 or past.dtype != np.int32:
        raise TypeError(f"samples are int32, not {out.dtype} and {past.dtype}")
    check_vector("out", out, writable=True)
    if past.ndim != 2 or not past.flags.c_contiguous or past.shape[1] < position + out.size or position < 0:
        raise ValueError(f"past noise of shape {past.shape} is not that of {out.size} from {position} on")
    if coefficients.dtype != np.int64 or coefficients.shape != past.shape[:1]:
        raise ValueError(f"{past.shape[0]} rows of past noise have as many int64 coefficients")
    if np.any(np.abs(coefficients) > MOST_COEFFICIENT) or past.shape[0] > 1 << 10:
        raise ValueError("coefficients this large, or so many, overflow")
    check_span(stream.prg, SAMPLE_BYTES * position, SAMPLE_BYTES * out.size)
    backend.correlate_noise(out, past, np.ascontiguousarray(coefficients), stream, position)
