"""Correlated noise: the banded matrix whose inverse noise goes through, so that later noise cancels earlier.

The model of round t is made of the sum of all releases up to it, so noise that adds up to little is better
than noise that is little. Let C be lower triangular, of b bands and Toeplitz, C_0 = 1. Noise n with C n = z,
z independent from round to round, costs what z costs on C x: releases y = x + n and C y = C x + z tell the
same (Denisov et al. 2022; Choquette-Choo et al. 2023a). A record that is in round t moves rows t to t + b - 1
of C x by C_0 g, ... C_{b-1} g: by its own norm times that of a column. Where it may be in every b-th round
alone, no two of its blocks of rows meet, and a run of T rounds is ceil(T / b) sampled Gaussians
(Choquette-Choo et al. 2023b, "(Amplified) Banded Matrix Factorization", theorem 4 and algorithm 2): given
what was shown before, the block of a round is one Gaussian on b d values whose mean the record's coin
decides, and all that others bring to its rows is a function of what was shown.

Coefficients are whole numbers of 64ths. With noise of whole numbers, each silo's z is a discrete Gaussian of
a coset of them: n_t is drawn around -sum_j C_j n_{t-j}, a number that its own past noise alone decides. The
sum of silos' n_t is, whatever their centres, the discrete Gaussian around the sum of the centres but for a
factor 1 +- 2 exp(-pi^2 v) a silo, v the variance of each (Poisson's summation formula), and so is a function
of the sum of their past noise. It is post-processing of the continuous mechanism by the argument of
`loss_distributions.gaussian_of`: given g_t = (C x)_t + N(0, s^2 - 3) and h_t = sum_j C_j y_{t-j}, of what was
shown before, show the whole number m with probability proportional to exp(-(m + h_t - g_t)^2 / 6); the
normalizer is the same for every g_t - h_t but for a factor 1 +- 2 exp(-6 pi^2)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ONE = 64
"""The coefficient 1: coefficients are multiples of 1/64, on which the noise's kernel counts."""
MOST_BANDS = 128
_MOST_ROUNDS = 4096
"""For more rounds the matrix is that of so many, which hardly differs."""
_LEAST_GAIN = 1e-9  # relative: of a step of the search, far above what processors differ by


@dataclass(frozen=True)
class BandMatrix:
    """C, by its first column."""

    coefficients: tuple[int, ...] = (ONE,)
    """C_0 = 1 and the others, in 64ths."""

    def __post_init__(self) -> None:
        whole = all(type(one) is int and abs(one) <= ONE for one in self.coefficients)
        if not whole or self.coefficients[:1] != (ONE,) or len(self.coefficients) > MOST_BANDS:
            raise ValueError(f"{self.coefficients} are no coefficients of noise that is correlated")

    @property
    def bands(self) -> int:
        """How many diagonals it has; 1 for independent noise."""
        return len(self.coefficients)

    @property
    def column_norm(self) -> float:
        """L2 norm of a column: how much further one round's part moves C x than x."""
        return math.hypot(*self.coefficients) / ONE

    @property
    def spread(self) -> float:
        """Standard deviation of the noise of a late round over that of z; earlier rounds have less."""
        if self.bands == 1:
            return 1.0
        first = np.zeros(_MOST_ROUNDS)
        first[0] = 1.0
        with np.errstate(over="ignore", invalid="ignore"):
            squared = float(np.sum(_divided(first, self.coefficients) ** 2))
        return math.sqrt(squared) if math.isfinite(squared) else math.inf

    def error(self, rounds: int) -> float:
        """Root of the mean square, over rounds, of the noise in all releases up to each, over one release's.

        With noise such that the run costs the same, but for what sampling within groups costs.
        """
        return self.column_norm * math.sqrt(_squared_error(self.coefficients, rounds) / rounds)


INDEPENDENT = BandMatrix()


@lru_cache(maxsize=16)
def matrix_for(bands: int, rounds: int) -> BandMatrix:
    """The matrix of so many bands with the least `error` over so many rounds, nearly.

    From the best truncated power of the matrix of all ones (Kalinin, Lampert 2024, "Banded square root matrix
    factorization", where the power is a half) by steps of 8, 4, 2 and 1 of single coefficients and of all
    from one on. Within 1e-3 of the least without rounding; the same on every processor.
    """
    if bands == 1:
        return INDEPENDENT
    rounds = min(rounds, _MOST_ROUNDS)
    best = min((_power(bands, k / ONE) for k in range(1, ONE + 1)), key=lambda one: _cost(one, rounds))
    for step in (8, 4, 2, 1):
        best = _descended(best, step, rounds)
    return BandMatrix(best)


def _power(bands: int, power: float) -> tuple[int, ...]:
    """Coefficients of (1 - x)^-power, rounded."""
    column = [1.0]
    for j in range(1, bands):
        column.append(column[-1] * (power + j - 1) / j)
    return tuple(round(one * ONE) for one in column)


def _descended(best: tuple[int, ...], step: int, rounds: int) -> tuple[int, ...]:
    cost, moved = _cost(best, rounds), True
    while moved:
        moved = False
        for first, last, by in _moves(len(best), step):
            tried = tuple(one + by * (first <= j < last) for j, one in enumerate(best))
            found = _cost(tried, rounds) if max(map(abs, tried)) <= ONE else math.inf
            if found < cost * (1 - _LEAST_GAIN):
                best, cost, moved = tried, found, True
    return best


def _moves(bands: int, step: int) -> Iterator[tuple[int, int, int]]:
    for first in range(1, bands):
        for last in sorted({first + 1, bands}):
            yield first, last, step
            yield first, last, -step


def _cost(coefficients: tuple[int, ...], rounds: int) -> float:
    cost = sum(one * one for one in coefficients) * _squared_error(coefficients, rounds)
    return cost if math.isfinite(cost) else math.inf


def _squared_error(coefficients: tuple[int, ...], rounds: int) -> float:
    """Squared Frobenius norm of A C^-1, A the lower triangle of ones (rounds, rounds)."""
    with np.errstate(over="ignore", invalid="ignore"):
        column = _divided(np.ones(rounds), coefficients)
        return float(np.dot(np.arange(rounds, 0, -1), column**2))


def _divided(series: NDArray[np.float64], coefficients: tuple[int, ...]) -> NDArray[np.float64]:
    """`series` over C, as power series."""
    from scipy.signal import lfilter  # type: ignore[import-untyped]  # late: it takes long to load

    return np.asarray(lfilter([1.0], np.array(coefficients) / ONE, series))
