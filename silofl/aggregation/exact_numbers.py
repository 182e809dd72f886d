"""A few real numbers as ring words, so that their sum over silos is exact and no silo sees a summand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silofl.errors import ConfigError
from silofl.types import RingBits, Words
from silofl_kernels import ExactFormat, ring_dtype, ring_limit

MAGNITUDE = 2.0**128
"""What exact numbers are below in magnitude."""
RESOLUTION = 2.0**-96
"""What they are rounded to multiples of: no multiple of it loses anything."""


def exact_format(bits: RingBits, silos: int) -> ExactFormat:
    """The exact format of a ring. ConfigError for more silos than its words can add up."""
    if silos > ring_limit(bits):
        wider = {8: "; use secure.bits = 16", 16: "; use secure.bits = 32"}.get(bits, "")
        raise ConfigError(
            f"{silos} silos do not fit a ring of {bits} bits: exact numbers take {ring_limit(bits)} at most"
            + wider
        )
    return ExactFormat(bits, silos)


@dataclass(frozen=True)
class ExactNumbers:
    """`count` numbers, each exact from 2^-96 up to 2^128, with a flag for one that is not finite or larger.

    A flagged number makes its sum NaN and leaves the others as they are.
    """

    bits: RingBits
    count: int

    def encoder(self, values: NDArray[np.float64]) -> Callable[[int], Words]:
        """encode(silos): the words of float64 (count,) for a sum over so many silos."""

        def encode(silos: int) -> Words:
            exact = exact_format(self.bits, silos)
            unfit = ~(np.abs(values) < MAGNITUDE)
            words = np.empty(self.count * exact.words, ring_dtype(self.bits))
            exact.encode(np.where(unfit, 0.0, values), words)
            return np.column_stack([words.reshape(self.count, -1), unfit.astype(words.dtype)]).reshape(-1)

        return encode

    def decode(self, sums: Words, silos: int) -> NDArray[np.float64]:
        """float64 (count,) sums over `silos` from the ring sums of their words."""
        exact = exact_format(self.bits, silos)
        parts = sums.reshape(self.count, exact.words + 1)
        totals = np.empty(self.count)
        exact.decode(np.ascontiguousarray(parts[:, :-1]).reshape(-1), totals)
        return np.where(parts[:, -1] > 0, np.nan, totals)
