"""Clipping of a silo's whole update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BELOW = 1 - 2.0**-22
"""So that rounding of the scaled values does not carry the norm above the bound."""


def clip(vectors: Sequence[NDArray[np.floating[Any]]], norm: float) -> float:
    """Scale vectors in place to a joint L2 norm of at most `norm` (McMahan et al. 2018, section 2).

    Returns their norm before, which is summed in float64, of values over the largest of them: none is too
    large for it. It is infinite where a value is not finite; the vectors become zero then.
    """
    largest = max((float(np.max(np.abs(vector), initial=0.0)) for vector in vectors), default=0.0)
    if not math.isfinite(largest):
        for vector in vectors:
            vector[:] = 0
        return math.inf
    if largest == 0.0:
        return 0.0
    scaled = [vector.astype(np.float64) / largest for vector in vectors]
    before = largest * math.sqrt(sum(float(one @ one) for one in scaled))
    if before > norm:
        for vector, one in zip(vectors, scaled, strict=True):
            vector[:] = one * (largest / before * norm * _BELOW)
    return before
