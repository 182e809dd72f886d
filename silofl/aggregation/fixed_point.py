"""Fixed-point parameters of a sum: a range that holds everybody's values, and what follows from it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.crypto.capacity import check_capacity, word_limit
from silofl.errors import DataError
from silofl.types import RingBits

LOWEST, HIGHEST = -64, 96
"""Binary exponents that are told apart; smaller magnitudes count as the lowest."""
LEVELS = HIGHEST - LOWEST + 2
"""One for each exponent, and one for what is larger or not finite."""
LEVEL_BITS = 64
"""A level that silos reached is taken for empty with probability 2^-64."""

Words = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class FixedPoint:
    """How values |x| <= value_range of one silo, weighted by p, become words whose sum cannot wrap."""

    scale: float
    """Words per unit of x for this silo: its weight is in it."""
    limit: int
    """Largest magnitude of this silo's words."""
    step: float
    """Value of one ring unit in the weighted sum."""


def fixed_point(
    bits: RingBits,
    value_range: float,
    silos: int,
    weight: float,
    *,
    stochastic: bool,
    total_weight: float = 1.0,
) -> FixedPoint:
    """For a sum of p_i x_i over `silos`, with p_i = `weight` here and `total_weight` in all.

    Raises ConfigError where nothing fits.
    """
    scale = check_capacity(bits, value_range, silos, stochastic=stochastic, total_weight=total_weight)
    limit = word_limit(weight, value_range, scale, stochastic=stochastic)
    return FixedPoint(weight * scale, limit, 1.0 / scale)


def encode_exponent(magnitude: float, dtype: np.dtype[Any]) -> Words:
    """Ring words that show, in a sum over silos, the largest of their binary exponents and nothing else.

    Up to the smallest e with magnitude <= 2^e every level holds random words, above it zeros: the sum is
    uniform up to the largest e of all silos and zero beyond, whoever and however many reached it.
    """
    reached = _exponent(magnitude) - LOWEST + 1
    words: Words = np.zeros((LEVELS, LEVEL_BITS // (8 * dtype.itemsize)), dtype)
    words[:reached] = np.frombuffer(os.urandom(words[:reached].nbytes), dtype).reshape(reached, -1)
    return words.reshape(-1)


def _exponent(magnitude: float) -> int:
    if not math.isfinite(magnitude):
        return HIGHEST + 1
    mantissa, exponent = math.frexp(magnitude)  # magnitude = mantissa * 2^exponent, 0.5 <= mantissa < 1
    return min(max(exponent - (mantissa == 0.5), LOWEST), HIGHEST + 1) if magnitude else LOWEST


def decode_range(sums: Words) -> float:
    """The smallest 2^e that holds all silos' magnitudes, from the sum of their words.

    Raises DataError where a silo's values are not finite or beyond 2^96.
    """
    reached = int(np.flatnonzero(sums.reshape(LEVELS, -1).any(axis=1))[-1])
    if reached == LEVELS - 1:
        raise DataError(
            f"a silo has values that are not finite, or beyond 2^{HIGHEST}; nothing was added up",
            rank=0,  # every rank sees the same and raises the same
        )
    return 2.0 ** (LOWEST + reached)
