"""A few real numbers as ring words, so that their sum over silos is exact and no silo sees a summand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.crypto.capacity import Limbs
from silofl.types import RingBits
from silofl_kernels import ExactFormat, ring_dtype

Words = NDArray[np.unsignedinteger[Any]]


class ExactNumbers:
    """`count` numbers, each exact from 2^-96 up to 2^128, with a flag for one that is not finite or larger.

    A flagged number makes its sum NaN and leaves the others as they are.
    """

    def __init__(self, bits: RingBits, count: int) -> None:
        self._bits, self._count = bits, count

    def encoder(self, values: NDArray[np.float64]) -> Callable[[int], Words]:
        """encode(silos): the words of float64 (count,) for a sum over so many silos."""

        def encode(silos: int) -> Words:
            exact, flag = ExactFormat(self._bits, silos), Limbs(self._bits, silos, 1)
            parts = []
            for value in values:
                words = np.empty(exact.words, ring_dtype(self._bits))
                nonfinite = exact.encode(np.array([value], np.float64), words)
                parts += [words, flag.encode(nonfinite)]
            return np.concatenate(parts)

        return encode

    def decode(self, sums: Words, silos: int) -> NDArray[np.float64]:
        """float64 (count,) sums over `silos` from the ring sums of their words."""
        exact, flag = ExactFormat(self._bits, silos), Limbs(self._bits, silos, 1)
        parts = sums.reshape(self._count, exact.words + flag.words)
        totals = np.empty(self._count)
        exact.decode(np.ascontiguousarray(parts[:, : exact.words]).reshape(-1), totals)
        bad = [flag.decode(part[exact.words :]) > 0 for part in parts]
        return np.where(bad, np.nan, totals)
