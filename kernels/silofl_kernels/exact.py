"""Wide fixed point for a few values that have no range and may lose nothing: sums over silos are exact.

A value is sum_j d_j 2^(l j + LOWEST), its digits d_j of its own sign and at most 2^l - 1 in magnitude, one
ring word each. l is so small that the sum of n silos' digits cannot leave the signed words of the ring;
carries are settled when the sum is read: an accumulator as wide as all exponents (Kulisch 1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import Floats, check_floats, check_vector
from silofl_kernels.ring import Words, ring_bits, ring_limit

LOWEST = -96
"""Binary exponent of the lowest digit's unit: what lies below is rounded to nearest even."""
HIGHEST = 128
"""Magnitudes are below 2^HIGHEST: every finite float32 is."""


@dataclass(frozen=True)
class ExactFormat:
    """Words of a ring whose sum over `silos` decodes to the exact sum of their values.

    Args:
        bits: width B of the ring: 8, 16 or 32.
        silos: how many summands there are at most, n.

    Raises:
        ValueError: another width, no silo, or more silos than digits of one bit allow (n <= 2^(B-1) - 1).
    """

    bits: int
    silos: int

    def __post_init__(self) -> None:
        if not 1 <= self.silos <= ring_limit(self.bits):
            raise ValueError(
                f"a ring of {self.bits} bits sums up 1 to {ring_limit(self.bits)} silos exactly, "
                f"not {self.silos}"
            )

    @property
    def digit_bits(self) -> int:
        """The largest l with n (2^l - 1) <= 2^(B-1) - 1."""
        return (ring_limit(self.bits) // self.silos + 1).bit_length() - 1

    @property
    def words(self) -> int:
        """Ring words of one value, L; its lowest digit comes first."""
        return -(-(HIGHEST - LOWEST) // self.digit_bits)

    def encode(self, x: Floats, out: Words, *, weight: float = 1.0) -> int:
        """Write the digits of weight * x (one float64 product, rounded to 2^-96) over `out`.

        Args:
            x: float32 or float64 (k,), contiguous. Not changed.
            out: uintB (k * L,), contiguous and writable; value i has words i L to (i + 1) L - 1.
            weight: the factor of this silo.

        Returns:
            How many products are NaN, infinite or 2^128 and more in magnitude; their words are zeros, and the
            vector is not to be sent.

        Raises:
            ValueError, TypeError: an argument is not as described; nothing was written.
        """
        backend = backend_of(x, out)
        check_floats("x", x)
        self._check("out", out, x.size, writable=True)
        return backend.encode_exact(x, out, weight, self.digit_bits)

    def decode(self, sums: Words, out: NDArray[np.float64]) -> None:
        """Write the exact sums, each rounded once to the nearest even float64, over `out`.

        Args:
            sums: uintB (k * L,), contiguous: the ring sums of at most n silos' words. Not changed.
            out: float64 (k,), contiguous and writable.

        Raises:
            ValueError, TypeError: an argument is not as described; nothing was written.
        """
        backend = backend_of(sums, out)
        if out.dtype != np.float64:
            raise TypeError(f"out is float64, not {out.dtype}")
        check_vector("out", out, writable=True)
        self._check("sums", sums, out.size)
        backend.decode_exact(sums, out, self.digit_bits)

    def _check(self, name: str, words: NDArray[Any], values: int, *, writable: bool = False) -> None:
        if ring_bits(words) != self.bits:
            raise TypeError(f"{name} are words of {self.bits} bits, not {words.dtype}")
        check_vector(name, words, writable=writable)
        if words.size != values * self.words:
            raise ValueError(f"{values} values are {values * self.words} words, not {words.size}")
