"""Clipping of a silo's whole update."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BELOW = 1 - 2.0**-22
"""So that rounding of the scaled values does not carry the norm above the bound."""


def clip(update: NDArray[np.floating[Any]], norm: float) -> float:
    """Scale (d,) in place to an L2 norm of at most `norm` (McMahan et al. 2018, section 2); its norm before.

    The norm is summed in float64, of values over the largest of them: none is too large for it. An update
    with values that are not finite becomes zero, and its norm is infinite.
    """
    largest = float(np.max(np.abs(update), initial=0.0))
    if not math.isfinite(largest):
        update[:] = 0
        return math.inf
    if largest == 0.0:
        return 0.0
    scaled = update.astype(np.float64) / largest
    before = largest * math.sqrt(float(scaled @ scaled))
    if before > norm:
        update[:] = scaled * (largest / before * norm * _BELOW)
    return before
