"""Discrete noise as alias tables of exact integers: what is known of a distribution before any draw.

A table holds the distribution of |x| (x is symmetric; a bit of its own gives the sign) as weights that are
whole multiples of 2^-110 of a cell, in cells of equal weight with at most two values each (Walker 1977; Vose
1991, section 3). Nothing here is floating point but the variance, which is taken as the number it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LEAST_VARIANCE, MOST_VARIANCE = 0.01, 1e8
"""Variances that have tables."""

NOISE_ERROR = 2.0**-109
"""Over the number K of a table's cells: how far any value's probability is from the exact one, at most.

Rounding moves each weight by at most one of K 2^110 parts. What lies beyond the tail's cut is less than
2^-120 of all, and no value there has more than 2^-112 / K; the fixed point of 256 bits adds less than 2^-150.
So the total variation distance is below 2^-109, too.
"""
REACH = 12.0
"""Standard deviations that a table of a variance from 1 on reaches, at least; it has as many cells."""

OTHER_BITS = 17
"""Bits of a cell's other value: the largest tables have 2^17 cells."""
HEAD_BITS = 15
"""Leading bits of a threshold that a cell holds; nearly every draw is settled by them."""
END_BITS = 31
"""Last bits of a threshold, behind the 64 of its tail."""
LIMIT_BITS = HEAD_BITS + 64 + END_BITS

_BITS = 256
_ONE = 1 << _BITS
_CUT_BITS = 120
_CELL = 1 << LIMIT_BITS

Mechanism = Literal["discrete-gaussian", "skellam"]


@dataclass(frozen=True, eq=False)
class NoiseTable:
    """A symmetric distribution on the integers, ready to be drawn from; made by the functions below.

    It holds nothing secret: it is a function of its name and variance.
    """

    name: Mechanism
    variance: float
    """The distribution's parameter; of the discrete Gaussian see `discrete_gaussian`."""
    largest: int
    """No sample is larger in magnitude."""
    cells: NDArray[np.uint32] = field(repr=False)
    """uint32 (K,), read-only: of each cell the first `HEAD_BITS` of its limit, then its other value. K is a
    power of two. Four bytes a cell, so that most tables fit the second-level cache."""
    tails: NDArray[np.uint64] = field(repr=False)
    """uint64 (K,), read-only: the 64 bits of each cell's limit behind the first."""
    ends: NDArray[np.uint32] = field(repr=False)
    """uint32 (K,), read-only: the last `END_BITS`. A draw of `LIMIT_BITS` below the limit keeps the cell's
    number, another takes the other."""

    @property
    def others(self) -> NDArray[np.uint32]:
        """uint32 (K,): the other value of each cell."""
        return self.cells & np.uint32((1 << OTHER_BITS) - 1)

    @property
    def limits(self) -> list[int]:
        """The whole limit of each of the K cells."""
        heads = (self.cells >> np.uint32(OTHER_BITS)).tolist()
        parts = zip(heads, self.tails.tolist(), self.ends.tolist(), strict=True)
        return [(head << 64 | tail) << END_BITS | end for head, tail, end in parts]


@functools.lru_cache(maxsize=16)
def discrete_gaussian(variance: float) -> NoiseTable:
    """The discrete Gaussian: x with probability in proportion to exp(-x^2 / (2 variance)).

    Its true variance is below the parameter: by a part of 3e-7 at most from 1 on, by 0.2% at 0.5 and 14% at
    0.25. Accountants go by the parameter (Canonne, Kamath and Steinke 2020, section 2).

    Args:
        variance: the parameter sigma^2, 0.01 to 1e8, in units of the ring, squared.

    Raises:
        ValueError: the variance is outside that range, or not a number.
    """
    _check(variance)
    return _table("discrete-gaussian", variance, _gaussian_ratios(Fraction(float(variance))))


@functools.lru_cache(maxsize=16)
def skellam(variance: float) -> NoiseTable:
    """The symmetric Skellam distribution: the difference of two Poisson(variance / 2) variables.

    A sum of independent samples is Skellam again, of the summed variance (Skellam 1946; Agarwal, Kairouz and
    Liu 2021).

    Args:
        variance: 0.01 to 1e8, in units of the ring, squared.

    Raises:
        ValueError: the variance is outside that range, or not a number.
    """
    _check(variance)
    return _table("skellam", variance, _skellam_ratios(Fraction(float(variance))))


def _check(variance: float) -> None:
    if not LEAST_VARIANCE <= variance <= MOST_VARIANCE:
        raise ValueError(f"noise has a variance of {LEAST_VARIANCE} to {MOST_VARIANCE:g}, not {variance}")


def _table(name: Mechanism, variance: float, ratios: Iterable[int]) -> NoiseTable:
    weights = _weights(ratios)
    largest = len(weights) - 1
    return NoiseTable(name, float(variance), largest, *packed(alias(rounded(weights))))


def packed(
    entries: Iterable[tuple[int, int]],
) -> tuple[NDArray[np.uint32], NDArray[np.uint64], NDArray[np.uint32]]:
    """Cells, tails and ends, read-only, of (limit, other cell) by cell: see `NoiseTable`."""
    limits, others = map(list, zip(*entries, strict=True))
    heads = np.array([limit >> 64 + END_BITS for limit in limits], np.uint32)
    tails = np.array([limit >> END_BITS & (1 << 64) - 1 for limit in limits], np.uint64)
    ends = np.array([limit & (1 << END_BITS) - 1 for limit in limits], np.uint32)
    cells = heads << np.uint32(OTHER_BITS) | np.array(others, np.uint32)
    for array in (cells, tails, ends):
        array.flags.writeable = False
    return cells, tails, ends


def _gaussian_ratios(variance: Fraction) -> Iterator[int]:
    """p(k + 1) / p(k) = exp(-(2 k + 1) / (2 variance)) for k = 0, 1, ..., in fixed point."""
    ratio = exp_of_minus(1 / (2 * variance))
    factor = ratio * ratio >> _BITS
    while True:
        yield ratio
        ratio = ratio * factor >> _BITS


def exp_of_minus(exponent: Fraction) -> int:
    """exp(-exponent), exponent >= 0, in fixed point: one over the exponential series of positive terms."""
    series, term, number = 0, _ONE, 0
    while term:
        series += term
        number += 1
        term = term * exponent.numerator // (exponent.denominator * number)
    return _ONE * _ONE // series


def _skellam_ratios(variance: Fraction) -> Iterator[int]:
    """p(k + 1) / p(k) = I_{k+1}(v) / I_k(v) for k = 0, 1, ..., in fixed point, v the variance.

    Backwards by I_{k-1}(v) = (2 k / v) I_k(v) + I_{k+1}(v) (DLMF 10.29.1, Miller's algorithm, 3.6(iii)): each
    step multiplies an error by less than one. Bernstein's inequality puts less than 2^-256 beyond the start,
    so that what is wrong there has vanished where the tail is cut.
    """
    nats = _BITS * math.log(2)
    start = math.ceil(nats / 3 + math.sqrt(nats * nats / 9 + 2 * nats * float(variance)))
    ratio, ratios = 0, []
    for k in range(start, 0, -1):
        ratio = (_ONE * _ONE) // (2 * k * _ONE * variance.denominator // variance.numerator + ratio)
        ratios.append(ratio)
    return reversed(ratios)


def _weights(ratios: Iterable[int]) -> list[int]:
    """Weights in proportion to p(0), 2 p(1), 2 p(2), ... to where less than 2^-120 of the sum lies beyond.

    Both distributions are log-concave: ratios fall, so that what is beyond is less than a geometric series.
    """
    weights, total, weight = [_ONE], _ONE, 2 * _ONE
    for ratio in ratios:
        weight = weight * ratio >> _BITS
        if weight << (_CUT_BITS + _BITS) < total * (_ONE - ratio):
            break
        weights.append(weight)
        total += weight
    return weights


def rounded(weights: list[int]) -> list[int]:
    """Whole weights, each within one of its share, that add up to 2^110 for each of a power of two cells."""
    cells = 1 << (len(weights) - 1).bit_length()
    total = sum(weights)
    whole = [weight * cells * _CELL // total for weight in weights]
    for k in range(cells * _CELL - sum(whole)):  # fewer than there are weights
        whole[k] += 1
    return whole + [0] * (cells - len(whole))


def alias(weights: list[int]) -> Iterator[tuple[int, int]]:
    """Threshold and other value of each cell: poor cells are filled up to 2^110 from rich ones."""
    left, others = list(weights), list(range(len(weights)))
    poor = [cell for cell, weight in enumerate(left) if weight < _CELL]
    rich = [cell for cell, weight in enumerate(left) if weight > _CELL]
    while poor:
        cell, giver = poor.pop(), rich[-1]
        others[cell] = giver
        left[giver] -= _CELL - left[cell]
        if left[giver] <= _CELL:
            rich.pop()
        if left[giver] < _CELL:
            poor.append(giver)
    # A full cell has itself as its other value, so that any threshold will do.
    return ((min(weight, _CELL - 1), other) for weight, other in zip(left, others, strict=True))
