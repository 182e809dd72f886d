"""The ring Z_2^B as NumPy sees it: unsigned words that wrap around, read as signed when they leave it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger[Any]]

BITS = (8, 16, 32)
"""Ring widths that have kernels."""
_DTYPES: dict[int, np.dtype[np.unsignedinteger[Any]]] = {bits: np.dtype(f"uint{bits}") for bits in BITS}


def ring_dtype(bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Unsigned dtype of a ring of `bits` bits.

    Raises:
        ValueError: `bits` is not 8, 16 or 32.
    """
    found = _DTYPES.get(bits)
    if found is None:
        raise ValueError(f"a ring has 8, 16 or 32 bits, not {bits}")
    return found


def ring_bits(words: NDArray[Any]) -> int:
    """Width B of the ring that `words` lies in.

    Raises:
        TypeError: the dtype is not uint8, uint16 or uint32.
    """
    if words.dtype.kind != "u" or words.dtype.itemsize * 8 not in BITS or not words.dtype.isnative:
        raise TypeError(f"ring words are uint8, uint16 or uint32, not {words.dtype}")
    return words.dtype.itemsize * 8


def ring_limit(bits: int) -> int:
    """Largest magnitude that has both signs in the ring: 2^(B-1) - 1."""
    return (1 << 8 * ring_dtype(bits).itemsize - 1) - 1
