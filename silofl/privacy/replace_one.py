"""The loss of a Poisson-sampled Gaussian where one record is replaced by any other.

The pair is P = (1 - q) N(0, s^2) + q N(1, s^2) and Q = (1 - q) N(0, s^2) + q N(-1, s^2): no two records move
the sum further apart. For records at u and v, |u|, |v| <= 1, the hockey-stick divergence of order a >= 1 is
q E[(A - c - a B)+] under N(0, s^2 I), with A and B the likelihood ratios of u and v over 0 and
c = (1 - q)(a - 1) / q (as in the advanced joint convexity of Balle, Barthe, Gaboardi 2018, Theorem 2). The
function is convex in A and in B. A shorter u or v has the mean of a longer one's ratio given the other, so by
Jensen's inequality |u| = |v| = 1 is the worst. It is submodular in both, ln A and ln B are normal: its mean
is then largest for the least correlation (Slepian's inequality), v = -u. Orders below 1 are those of the pair
the other way round, which is the same by reflection.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def loss(x: float, noise: float, rate: float) -> float:
    """log of the density of P over that of Q; rises with x, and is odd."""
    return _part(x, noise, rate) - _part(-x, noise, rate)


def _part(x: float, noise: float, rate: float) -> float:
    with np.errstate(divide="ignore"):
        return float(np.logaddexp(np.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2)))


def where(losses: Floats, noise: float, rate: float) -> Floats:
    """The x with these losses: s^2 (l / 2 + asinh(r sinh(l / 2))), r = (1 - q) / q exp(1 / (2 s^2))."""
    size = np.abs(losses)
    with np.errstate(divide="ignore", over="ignore"):
        log_ratio = np.log1p(-rate) - math.log(rate) + 1 / (2 * noise**2)
        log_sinh = size / 2 + np.log(-np.expm1(-size)) - math.log(2)
        at = log_ratio + log_sinh
        large = at + np.log1p(np.sqrt(1 + np.exp(-2 * np.maximum(at, 0.0))))
        inner = np.where(at > 0, large, np.arcsinh(np.exp(np.minimum(at, 0.0))))
    return np.asarray(np.sign(losses) * noise**2 * (size / 2 + inner))


def masses(
    grid: Floats, noise: float, rate: float, normal_masses: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Mass of P and of Q below losses `grid` (n,), between neighbours of it, and above: (n + 1,) each.

    `normal_masses` gives those of N(0, 1) between edges.
    """
    edges = np.maximum.accumulate(where(grid, noise, rate))  # rounding may have swapped neighbours
    edges = np.pad(edges, 1, constant_values=(-np.inf, np.inf))
    alone, one, other = (normal_masses((edges - at) / noise) for at in (0, 1, -1))
    return (1 - rate) * alone + rate * one, (1 - rate) * alone + rate * other
