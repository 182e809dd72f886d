"""What it costs that noise is drawn from tables, which are not quite the distributions they are named after.

A table errs by at most e at every value, and so does the sum of n sources by n e. Where the exact
probability Q is much larger than that, likelihoods are those of the exact noise but for a factor
1 +- n e / Q. Only what lies outside can tell more; it adds to delta as it is, not times exp(epsilon):

Let G be the outcomes of a run in which, seen from all that a record may have brought (up to three vectors:
it is not sampled, or one of two that replace each other is; of a person in k silos, one or two for each set
of silos that has sampled it), every coordinate's noise is within X and the logarithms of these factors add up
to at most r. Within G the likelihoods of both neighbours, and of what they
are mixtures of, are exact but for exp(+-r). So where exact noise gives (eps, delta), what is drawn gives
(eps + 2 r, exp(r) delta + P(not G)). Leaving X has Gaussian, or Skellam's, tails. The sum of the factors'
logarithms has a mean, of which Markov's inequality makes a probability: `DrawnNoise.ratio` / r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from silofl_kernels import NOISE_ERROR, REACH

_RATIO = 1e-3  # for which r the two parts of P(not G) are weighed against each other
_MOST = 0.5  # of a probability that says nothing any more


@dataclass(frozen=True)
class DrawnNoise:
    """Of one release."""

    tail: float
    """Probability with which a coordinate's noise is larger than X, seen from anything a record may bring."""
    ratio: float
    """Mean of the sum of the factors' logarithms within X, at most."""


@lru_cache(maxsize=256)
def drawn_noise(
    mechanism: str,
    dimensions: int,
    multiplier: float,
    sources: int,
    share: float,
    vectors: float = 3,
    tables: int = 1,
) -> DrawnNoise:
    """The least of both over X, for noise of so many sources on vectors (dimensions,).

    Args:
        mechanism: discrete.
        dimensions: coordinates of a release.
        multiplier: standard deviation of the noise over the most L2 distance of two vectors that a record may
            bring.
        sources: how many tables' draws add up to that noise.
        share: variance of each of them, 1 or more, in squared units of the grid.
        vectors: how many different ones a record, or a person, may bring: both numbers are theirs together.
        tables: how many times a table's error a draw may be off.
    """
    found = [
        one
        for reach in range(2, 2 * int(REACH) + 1)
        if (one := _within(reach / 2, mechanism, dimensions, multiplier, sources, share, tables)) is not None
    ]
    best = min(found, key=lambda one: one.tail + one.ratio / _RATIO, default=DrawnNoise(_MOST, 1.0))
    if vectors == 3 or not found:
        return best
    more = vectors / 3
    many = [DrawnNoise(min(one.tail * more, _MOST), min(one.ratio * more, 1.0)) for one in found]
    return min(many, key=lambda one: one.tail + one.ratio / _RATIO)


def _within(
    reach: float,
    mechanism: str,
    dimensions: int,
    multiplier: float,
    sources: int,
    share: float,
    tables: int,
) -> DrawnNoise | None:
    """With X at so many standard deviations; None where Q is too small there, or a record moves as far."""
    variance = sources * share
    deviation = math.sqrt(variance)
    error = tables * sources * NOISE_ERROR / (REACH * math.sqrt(share))  # of a value of the sum
    least = math.exp(-reach * (reach + 1 / deviation) / 2) / (2.6 * deviation)  # Q(X), at least
    if error > least / 2 or reach * multiplier < 1:
        return None
    moved = _moved(reach + 0.5 / deviation, dimensions, multiplier)
    values = 2 * reach * math.sqrt(sources) / REACH + 1  # up to X, over the cells of a table
    return DrawnNoise(
        min(6 * moved * math.exp(-_exponent(mechanism, reach, variance)), _MOST),
        min(17 * moved * tables * sources * values * NOISE_ERROR, 1.0),
    )


def _moved(reach: float, dimensions: int, multiplier: float) -> float:
    """The sum of exp(reach t) over coordinates that a record moves by t standard deviations each.

    exp(a t) = 1 + a t + t^2 g(t), where g grows, no t is more than 1 / multiplier, and neither is their norm.
    """
    most = reach / multiplier
    return dimensions + math.sqrt(dimensions) * most + math.expm1(min(most, 700.0)) - min(most, 700.0)


def _exponent(mechanism: str, reach: float, variance: float) -> float:
    """-log of Chernoff's bound on noise above so many standard deviations.

    A discrete Gaussian's tails are no heavier than a Gaussian's (Canonne, Kamath, Steinke 2020, section 2.2).
    """
    if mechanism != "skellam":
        return reach**2 / 2
    at = reach * math.sqrt(variance)
    return at * math.asinh(at / variance) - math.hypot(at, variance) + variance
