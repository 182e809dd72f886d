"""The largest magnitude of a vector or of each of its tensors, in one pass."""

from __future__ import annotations

from typing import overload

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats
from silofl_kernels.segments import check_ends


@overload
def max_abs(x: Floats) -> float:
    """The largest magnitude of x."""


@overload
def max_abs(x: Floats, ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """The largest magnitude of each segment of x."""


def max_abs(x: Floats, ends: NDArray[np.int64] | None = None) -> float | NDArray[np.float64]:
    """max |x_i|, 0 for an empty vector, infinity where a value is infinite or NaN.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.
        ends: int64 (m,), where each segment of x ends, as `Segments.ends`; the last is k.

    Returns:
        One number, or with `ends` float64 (m,), one for each segment.

    Raises:
        ValueError, TypeError: an argument is not as described.
    """
    backend = backend_of(x)
    check_floats("x", x)
    if ends is None:
        out = np.zeros(1)
        backend.max_abs(x, np.array([x.size]), out)
        return float(out[0])
    check_ends(ends)
    if (int(ends[-1]) if len(ends) else 0) != x.size:
        raise ValueError(f"segments do not end where x of {x.size} elements does")
    out = np.zeros(len(ends))
    backend.max_abs(x, ends, out)
    return out
