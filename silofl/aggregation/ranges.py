"""Agreement on ranges: the largest binary exponent of each tensor over all silos, and nothing else of it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl_kernels import Stream, keystream

LOWEST, HIGHEST = -64, 96
"""Binary exponents that are told apart; smaller magnitudes count as the lowest."""
LEVELS = HIGHEST - LOWEST + 2
"""One for each exponent, and one for what is larger or not finite."""
LEVEL = np.dtype(np.uint64)
"""Words of a level together. A level that silos reached is taken for empty with probability 2^-64."""

Words = NDArray[np.unsignedinteger[Any]]


def encode_exponents(magnitudes: NDArray[np.float64], dtype: np.dtype[Any]) -> Words:
    """Ring words that show, in a sum over silos, each tensor's largest exponent of all silos.

    Up to the smallest e with magnitude <= 2^e every level holds random words, above it zeros: the sum is
    uniform up to the largest e of all silos and zero beyond, whichever and however many silos reached it.

    Args:
        magnitudes: float64 (m,), the largest of each tensor of this silo; infinite where one is not finite.
        dtype: of the ring.
    """
    reached = _exponents(magnitudes) - LOWEST + 1
    levels = np.empty((len(magnitudes), LEVELS), LEVEL)
    keystream(Stream("aes-128-ctr", os.urandom(16)), levels.reshape(-1).view(np.uint8))
    levels *= np.arange(LEVELS) < reached[:, None]
    return levels.reshape(-1).view(dtype)


def decode_ranges(sums: Words, tensors: tuple[str, ...]) -> NDArray[np.float64]:
    """float64 (m,): the smallest 2^e that holds all silos' magnitudes of each tensor, from the sums.

    Raises DataError, the same on every rank, naming a tensor whose values are beyond 2^96 or not finite.
    """
    used = sums.view(LEVEL).reshape(len(tensors), LEVELS) != 0
    reached = LEVELS - 1 - np.argmax(used[:, ::-1], axis=1)
    beyond = np.flatnonzero(reached == LEVELS - 1)
    if beyond.size:
        raise DataError(
            f"a silo's {tensors[beyond[0]]} has values that are not finite, or beyond 2^{HIGHEST}; "
            "nothing was added up",
            rank=0,
        )
    return np.asarray(np.ldexp(1.0, reached + LOWEST))


def _exponents(magnitudes: NDArray[np.float64]) -> NDArray[np.int64]:
    """The smallest e with magnitude <= 2^e, within what is told apart."""
    mantissas, exponents = np.frexp(magnitudes)  # magnitude = mantissa * 2^exponent, 0.5 <= mantissa < 1
    found: NDArray[np.int64] = np.clip(exponents - (mantissas == 0.5), LOWEST, HIGHEST + 1).astype(np.int64)
    found[magnitudes == 0] = LOWEST
    found[~np.isfinite(magnitudes)] = HIGHEST + 1
    return found
