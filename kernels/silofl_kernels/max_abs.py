"""The largest magnitude of a vector, in one pass."""

from __future__ import annotations

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats


def max_abs(x: Floats) -> float:
    """max |x_i|, 0 for an empty vector, infinity where a value is infinite or NaN.

    Args:
        x: float32 or float64 (k,), contiguous. Not changed.

    Raises:
        ValueError, TypeError: the argument is not as described.
    """
    backend = backend_of(x)
    check_floats("x", x)
    return backend.max_abs(x)
