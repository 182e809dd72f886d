"""How fast values come together: the second eigenvalue of what a period of rounds makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from silofl.mixing.mixing_matrices import Weights

ROUNDED = 1e-12
"""What is left of zero by rounding."""


def second_eigenvalue(period: Sequence[Weights]) -> float:
    """By which factor, on average over a period's rounds, what differs between nodes shrinks in one round.

    That is the second largest magnitude of eigenvalues, which the largest one, 1, stands above where all
    nodes reach each other; 0 where a period gives the exact mean.
    """
    product = np.eye(len(period[0]))
    for weights in period:
        product = weights @ product
    if len(product) < 2:
        return 0.0
    if np.allclose(product.sum(axis=1), 1.0):  # of symmetric and circulant weights the same
        second = float(np.linalg.norm(product - 1.0 / len(product), 2))
    else:
        second = float(np.sort(np.abs(np.linalg.eigvals(product)))[-2])
    return 0.0 if second < ROUNDED else float(second ** (1.0 / len(period)))


def spectral_gap(period: Sequence[Weights]) -> float:
    """1 less the second eigenvalue: 0 where some nodes never hear of others, 1 for the exact mean."""
    return 1.0 - second_eigenvalue(period)
