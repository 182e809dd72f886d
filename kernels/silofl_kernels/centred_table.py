"""Discrete Gaussians around any fraction, as alias tables of exact integers: one for each of 64 fractions.

A centre c is a whole number and a fraction of `FRACTION_BITS` bits. Noise around it of variance v is that of
variance v - 5 around 0, as `noise_table` has it, and of variance 5 around c plus what that drew: the product
of the two densities, added up over what the first drew, is exp(-(m - c)^2 / (2 v)) times a sum over all whole
numbers of a Gaussian of variance u = 5 (v - 5) / v around some centre. By Poisson's summation formula this
sum is the same for every m but for a factor 1 +- 2 exp(-2 pi^2 u): 1 +- 8e-30 for v = 16, the least that
there is, and less for more (as in Peikert 2010, "An Efficient and Parallel Gaussian Sampler", theorem 3.1).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.noise_table import alias, exp_of_minus, packed, rounded

FRACTION_BITS = 6
"""Bits of a centre behind the point. 64 tables of 64 cells are 16 KiB: they stay in the first-level cache."""
CENTRED_VARIANCE = 5
"""Of the noise around a fraction, in squared units of the ring: see above."""
CELLS = 64
LOWEST = -31
"""The value of a table's first cell; the last is 32. Beyond them lies less than 2^-130 of all."""

_BITS = 256


@dataclass(frozen=True, eq=False)
class CentredTables:
    """The discrete Gaussian of variance 5 around 0, 1/64, ... 63/64; as `NoiseTable`, but with no sign.

    A value's probability is off by `NOISE_ERROR` over 64 at most, by the argument that is given there.
    """

    cells: NDArray[np.uint32] = field(repr=False)
    """uint32 (64 * 64,), read-only: of cell k of fraction f, at 64 f + k, the head of its limit and its other
    cell."""
    tails: NDArray[np.uint64] = field(repr=False)
    """uint64 (64 * 64,), read-only."""
    ends: NDArray[np.uint32] = field(repr=False)
    """uint32 (64 * 64,), read-only."""


@functools.cache
def centred_tables() -> CentredTables:
    """The tables, made once in a process."""
    return CentredTables(*packed(entry for weights in _weights() for entry in alias(rounded(weights))))


def _weights() -> Iterator[list[int]]:
    """For each fraction f weights in proportion to exp(-(m - f)^2 / 10) of m = LOWEST, ..., in fixed point.

    That is exp(-m^2 / 10) exp(m / 5)^f but for a factor that all m share.
    """
    values = range(LOWEST, LOWEST + CELLS)
    weights = [exp_of_minus(Fraction(m * m, 2 * CENTRED_VARIANCE)) for m in values]
    factors = [_exp(Fraction(m, CENTRED_VARIANCE << FRACTION_BITS)) for m in values]
    for _ in range(1 << FRACTION_BITS):
        yield weights
        weights = [weight * factor >> _BITS for weight, factor in zip(weights, factors, strict=True)]


def _exp(exponent: Fraction) -> int:
    return exp_of_minus(-exponent) if exponent < 0 else (1 << 2 * _BITS) // exp_of_minus(exponent)
