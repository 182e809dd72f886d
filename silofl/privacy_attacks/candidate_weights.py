"""How much of each candidate is in an opened sum, by linear least squares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ROUNDING = 1e-9
"""Of the rows' mean squared length: what single precision leaves of a sum that has no noise."""


def candidate_weights(rows: Floats, total: Floats, part: float, noise: float = 0.0) -> Floats:
    """Estimates (n,) of how often each candidate's vector is in a sum: about 1 where it is, else about 0.

    The sum is rows.T @ w + noise, where each w is 1 with probability `part`, else 0. The estimate is the
    linear one of the least mean square error: ridge regression about the mean, with the noise's variance over
    that of a weight. Among as many candidates as a sum has values, or fewer, it is exact without noise; among
    more, those of a sum are still the likelier.

    Args:
        rows: (n, P), what each candidate would bring.
        total: (P,), the sum.
        part: of the candidates that are in it, above 0 and below 1.
        noise: standard deviation of each value of the sum.
    """
    products = rows @ rows.T
    least = _ROUNDING * max(float(np.trace(products)) / len(rows), 1e-300)
    ridge = max(noise**2 / (part * (1 - part)), least)
    against = rows @ (total - part * rows.sum(axis=0))
    return np.asarray(part + np.linalg.solve(products + ridge * np.eye(len(rows)), against))
