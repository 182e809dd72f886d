"""The loss of a Gaussian where a person's records lie in k silos, each of which samples for itself.

The person moves the sum by x_S, of a norm of |S| at most, where the set S of silos has drawn it: a mixture of
Gaussians (Choquette-Choo, Ganesh, Steinke, Thakurta 2023, "Privacy Amplification for Matrix Mechanisms",
section 4). No such mixture reveals more than that of the shifts j = 0..k with the probabilities of a binomial
distribution, all in one direction:

    removed, added: P = sum_j B(k, q)(j) N(j, s^2) and Q = N(0, s^2), either way round
    replaced:       P as above and Q = sum_j B(k, q)(j) N(-j, s^2)

The proof is that of `replace_one.py`, with more terms. The hockey-stick divergence of order a >= 1 is
E[(c + sum_S w_S (A_S - a B_S))+] under N(0, s^2 I), with A_S and B_S the likelihood ratios of x_S and y_S
over 0. The function is convex in all of them, so by Jensen's inequality the longest x_S, y_S are the worst.
Its mixed second derivatives in the logarithms, which are normal, are at least 0 between two of A, or two of
B, and at most 0 between one of A and one of B: its mean is the largest where correlations are 1 within A and
within B and -1 between them (Slepian's inequality in the form of Kahane 1986). Without B that is the pair of
a removed record; the other way round, (1 - a sum_S w_S A_S)+, it is the same. A person in fewer silos than k
is one who brings nothing to the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Curve = Callable[[Floats], tuple[Floats, Floats]]
    Masses = Callable[[Floats], Floats]

_TABLE = 1 << 13  # points of a curve between which it is inverted
_TRIES = 100  # an interval that is halved so often has two neighbours for ends
_CLOSE = 1e-13  # of a loss, by which what is found for it may be off; ten times what rounding does


def removed_loss(x: Floats, noise: float, rate: float, silos: int) -> tuple[Floats, Floats]:
    """log of the density of P over that of N(0, noise^2) at x (n,), and its derivative, which is above 0."""
    shifts = np.arange(silos + 1.0)
    exponents = _log_weights(rate, silos) + (2 * shifts * x[:, None] - shifts**2) / (2 * noise**2)
    top = exponents.max(axis=1)
    parts = np.exp(exponents - top[:, None])
    whole = parts.sum(axis=1)
    return top + np.log(whole), parts @ shifts / (whole * noise**2)


def replaced_loss(x: Floats, noise: float, rate: float, silos: int) -> tuple[Floats, Floats]:
    """log of the density of P over that of Q where a person is replaced; rises with x, and is odd."""
    (one, slope), (other, back) = (removed_loss(at, noise, rate, silos) for at in (x, -x))
    return one - other, slope + back


def removed_masses(
    grid: Floats, noise: float, rate: float, silos: int, reach: float, normal_masses: Masses
) -> tuple[Floats, Floats]:
    """Mass of P and of N(0, noise^2) below losses `grid` (n,), between neighbours of it, and above: (n + 1,).

    `normal_masses` gives those of N(0, 1) between edges; `reach` is how many standard deviations matter.
    """
    low, high = -(reach + 2) * noise, silos + reach * noise
    edges = np.maximum.accumulate(_where(lambda x: removed_loss(x, noise, rate, silos), grid, low, high))
    edges = np.pad(edges, 1, constant_values=(-np.inf, np.inf))
    return _mixed(edges, noise, rate, silos, normal_masses), normal_masses(edges / noise)


def replaced_masses(
    grid: Floats, noise: float, rate: float, silos: int, reach: float, normal_masses: Masses
) -> tuple[Floats, Floats]:
    """As `removed_masses`, of P and Q where a person is replaced."""
    high = silos + reach * noise
    half = _where(lambda x: replaced_loss(x, noise, rate, silos), np.abs(grid), 0.0, high)
    edges = np.maximum.accumulate(np.sign(grid) * half)  # rounding may have swapped neighbours
    edges = np.pad(edges, 1, constant_values=(-np.inf, np.inf))
    within = _mixed(edges, noise, rate, silos, normal_masses)
    without = _mixed(-edges[::-1], noise, rate, silos, normal_masses)[::-1]
    return within, without


def _mixed(edges: Floats, noise: float, rate: float, silos: int, normal_masses: Masses) -> Floats:
    """Of P between edges."""
    weights = np.exp(_log_weights(rate, silos)).tolist()
    parts = [weight * normal_masses((edges - shift) / noise) for shift, weight in enumerate(weights)]
    return np.asarray(np.sum(parts, axis=0))


def _log_weights(rate: float, silos: int) -> Floats:
    """Logarithms of the binomial probabilities (silos + 1,)."""
    return np.array(
        [
            math.log(math.comb(silos, j)) + j * math.log(rate) + (silos - j) * math.log1p(-rate)
            for j in range(silos + 1)
        ]
    )


def _where(curve: Curve, values: Floats, low: float, high: float) -> Floats:
    """The x with these values (n,) of a curve that rises; `low` for values that are below its own there.

    A table tells an interval for each, within which Newton's steps go, or halvings where they lead out of it.
    """
    while curve(np.array([high]))[0][0] < values.max():
        high += 1 + abs(high)
    table = np.linspace(low, high, _TABLE)
    right = np.clip(np.searchsorted(curve(table)[0], values), 1, _TABLE - 1)
    below, above = table[right - 1], table[right]
    x = above
    for _ in range(_TRIES):
        found, slope = curve(x)
        off = found - values
        below, above = np.where(off < 0, x, below), np.where(off < 0, above, x)
        if bool(((np.abs(off) <= _CLOSE * (1 + np.abs(values))) | (x <= low)).all()):
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            x = x - off / slope
        x = np.where((x >= below) & (x <= above), x, (below + above) / 2)
    return x
