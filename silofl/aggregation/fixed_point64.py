"""A few real numbers as ring words, so that their sum over silos is exact and nobody sees a summand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.crypto.capacity import Limbs
from silofl.types import RingBits

WIDTH = 64
FRACTION = 24
OFFSET = 1 << (WIDTH - 1)
LARGEST = 2.0 ** (WIDTH - 1 - FRACTION)

Words = NDArray[np.unsignedinteger[Any]]


class FixedPoint64:
    """Fixed point with steps of 2^-24 and magnitudes below 2^39; a sum of such is exact.

    A number that is not finite, or too large, makes the sum NaN.
    """

    def __init__(self, bits: RingBits, silos: int, count: int) -> None:
        self._limbs, self._flag = Limbs(bits, silos, WIDTH), Limbs(bits, silos, 1)
        self._silos, self._count = silos, count
        self._each = self._limbs.words + self._flag.words

    @property
    def words(self) -> int:
        """How many ring words they take."""
        return self._count * self._each

    def encode(self, values: NDArray[np.float64]) -> Words:
        """uintB (words,) of float64 (count,)."""
        return np.concatenate([self._encode(float(value)) for value in values])

    def _encode(self, value: float) -> Words:
        fits = math.isfinite(value) and abs(value) < LARGEST
        number = round(value * (1 << FRACTION)) + OFFSET if fits else 0
        return np.concatenate([self._limbs.encode(number), self._flag.encode(int(not fits))])

    def decode(self, sums: Words) -> NDArray[np.float64]:
        """float64 (count,) sums over silos from the ring sums (words,) of their words."""
        parts = sums.reshape(self._count, self._each)
        return np.array([self._decode(part) for part in parts])

    def _decode(self, sums: Words) -> float:
        if self._flag.decode(sums[self._limbs.words :]):
            return math.nan
        total = self._limbs.decode(sums[: self._limbs.words]) - self._silos * OFFSET
        return total / (1 << FRACTION)
