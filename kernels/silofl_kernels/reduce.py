"""Sums of n rows: in the ring, with masks taken off in the same pass, and of floats in a fixed order.

A row is given as a row of a 2-D array or as a vector of its own (rows may lie in the memory of other
processes).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, Rows, check_floats, check_rows, check_same_size, check_vector
from silofl_kernels.masking import MaskSet, check_masks
from silofl_kernels.quantize import check_steps
from silofl_kernels.ring import Words, ring_bits


def reduce_rows(rows: Rows, out: Words, *, masks: MaskSet | None = None, offset: int = 0) -> None:
    """Write the sum of `rows` in the ring, plus every mask, over `out`.

    Args:
        rows: uint8, uint16 or uint32 (n, k), or n contiguous vectors (k,); n >= 1. Not changed.
        out: (k,) of the same dtype, contiguous and writable; it overlaps no row but possibly row 0.
        masks: masks to add and subtract (the opposite signs take off what was put on); None for none.
        offset: element of the masks that meets out[0].

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(out, *rows)
    ring_bits(out)
    check_vector("out", out, writable=True)
    check_masks(masks, offset, out)
    check_rows(rows, out)
    backend.reduce_rows(rows, out, masks, offset)


def reduce_rows_dequantize(
    rows: Rows,
    out: Floats,
    *,
    step: float | None = None,
    steps: NDArray[np.float64] | None = None,
    ends: NDArray[np.int64] | None = None,
    masks: MaskSet | None = None,
    offset: int = 0,
    first: int | None = None,
) -> None:
    """Write `step` times the signed sum of `rows`, masks added, over `out`, in one pass.

    Args:
        rows: uint8, uint16 or uint32 (n, k), or n contiguous vectors (k,); n >= 1. Not changed.
        out: float32 or float64 (k,), contiguous and writable.
        step: value of one ring unit; the product is float64 and rounded once.
        steps: in place of `step`, float64 (m,): value of one ring unit in each segment.
        ends: with `steps`, int64 (m,): where each segment ends, as `Segments.ends`.
        masks: masks to add and subtract; None for none.
        offset: element of the masks that meets out[0].
        first: with `steps`, coordinate of out[0] in the vector that segments divide; None for `offset`.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(out, *rows)
    check_floats("out", out, writable=True)
    if len(rows) == 0:
        raise ValueError("a sum needs at least one row")
    ring_bits(rows[0])
    check_same_size(rows[0], out)
    check_masks(masks, offset, rows[0])
    check_rows(rows, rows[0])
    first = offset if first is None else first
    parts = check_steps(step, steps, ends, first, out.size)
    backend.reduce_rows_dequantize(rows, out, *parts, first, masks, offset)


def reduce_rows_float(
    rows: Rows, out: Floats, *, weights: Sequence[float] | NDArray[np.float64] | None = None
) -> None:
    """Write the weighted sum of `rows` over `out`, in row order, in float64, rounded once.

    Args:
        rows: float32 or float64 (n, k), or n contiguous vectors (k,); n >= 1. Not changed.
        out: (k,) of the same dtype, contiguous and writable.
        weights: n factors; None means 1.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(out, *rows)
    check_floats("out", out, writable=True)
    factors = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (len(rows),):
        raise ValueError(f"{len(rows)} rows and weights of shape {factors.shape}")
    check_rows(rows, out)
    backend.reduce_rows_float(rows, out, np.ascontiguousarray(factors))


def scale_into(x: Floats, weight: float, out: Floats) -> None:
    """Write x * weight over `out`; the product is float64 and rounded once. `out` may be `x`.

    Args:
        x: float32 or float64 (k,), contiguous.
        weight: the factor.
        out: (k,) of the same dtype, contiguous and writable.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(x, out)
    check_floats("x", x)
    check_floats("out", out, writable=True)
    check_same_size(x, out)
    if x.dtype != out.dtype:
        raise TypeError(f"x is {x.dtype}, out {out.dtype}")
    backend.scale_into(x, weight, out)
