"""Order statistics of n rows, coordinate by coordinate: medians, trimmed means, means around a reference.

A row is given as a row of a 2-D array or as a vector of its own. Values are finite; where some are not, that
coordinate of the result may be any of its values, or none.
"""

from __future__ import annotations

from silofl_kernels.backend import Backend, backend_of
from silofl_kernels.checks import Floats, Rows, check_floats, check_rows, check_same_size


def median(rows: Rows, out: Floats) -> None:
    """Write the median of each coordinate over `out`; of an even number of rows the mean of the middle two.

    Args:
        rows: float32 or float64 (n, k), or n contiguous vectors (k,); n >= 1. Not changed.
        out: (k,) of the same dtype, contiguous and writable; it overlaps no row.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    trimmed_mean(rows, out, trim=(len(rows) - 1) // 2)


def trimmed_mean(rows: Rows, out: Floats, *, trim: int) -> None:
    """Write the mean of each coordinate without its `trim` smallest and largest values over `out`.

    The sum is in float64, in ascending order, and rounded once (Yin et al. 2018, definition 2).

    Args:
        rows, out: as of `median`.
        trim: from each end; 0 <= 2 trim < n.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = _checked(rows, out)
    if not 0 <= 2 * trim < len(rows):
        raise ValueError(f"{trim} of {len(rows)} values at each end leave none")
    backend.sorted_mean(rows, out, trim, len(rows) - trim)


def mean_around(rows: Rows, reference: Floats, out: Floats, *, count: int) -> None:
    """Write the mean of the `count` values of each coordinate that are nearest to `reference` over `out`.

    Of values equally far on both sides the smaller count first, so that the order of rows does not matter
    (Xie et al. 2018, "Generalized Byzantine-tolerant SGD", definition 9). In float64, rounded once.

    Args:
        rows, out: as of `median`.
        reference: (k,) of the same dtype, contiguous. Not changed; it may be `out`.
        count: 1 <= count <= n.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = _checked(rows, out)
    check_floats("reference", reference)
    check_same_size(reference, out)
    if reference.dtype != out.dtype:
        raise TypeError(f"reference is {reference.dtype}, out {out.dtype}")
    if not 1 <= count <= len(rows):
        raise ValueError(f"count is from 1 to {len(rows)}, not {count}")
    backend.mean_around(rows, reference, out, count)


def _checked(rows: Rows, out: Floats) -> Backend:
    backend = backend_of(out, *rows)
    check_floats("out", out, writable=True)
    check_rows(rows, out)
    return backend
