"""Codes of 1 to 7 bits side by side in bytes, and back.

Code i takes bits i b to i b + b - 1 of the bytes, bit 0 of a byte first (`numpy.packbits`, bitorder
"little"); what is left of the last byte is 0. Eight codes of b bits are b bytes, so that a part that begins
at a multiple of eight codes is packed alone.

Unsigned codes (uint8) are 0 to 2^b - 1. Signed ones (int8) are kept in two's complement, -2^(b-1) to
2^(b-1) - 1; codes of one bit are the signs, +1 as 0 and -1 as 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl_kernels.backend import backend_of
from silofl_kernels.checks import check_vector

Packable = NDArray[np.int8] | NDArray[np.uint8]
Bytes = NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Bytes of `count` codes of `bits` bits.

    Raises:
        ValueError: `bits` is not 1 to 7.
    """
    if not 1 <= bits <= 7:
        raise ValueError(f"packed codes have 1 to 7 bits, not {bits}")
    return -(-count * bits // 8)


def pack_bits(codes: Packable, out: Bytes, *, bits: int) -> None:
    """Write `codes` of `bits` bits side by side over `out`.

    Args:
        codes: uint8 or int8 (k,), contiguous. Not changed.
        out: uint8 (ceil(k * bits / 8),), contiguous and writable.
        bits: bits of a code, 1 to 7.

    Raises:
        ValueError: a code has more bits, and `out` is not to be used.
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(codes, out)
    _check_packed(codes, out, bits)
    check_vector("codes", codes)
    check_vector("out", out, writable=True)
    if not backend.pack_bits(codes, out, bits):
        raise ValueError(f"not all codes have {bits} bits")


def unpack_bits(packed: Bytes, out: Packable, *, bits: int) -> None:
    """Write the codes that `pack_bits` put into `packed` over `out`, with the sign where `out` is int8.

    Args:
        packed: uint8 (ceil(k * bits / 8),), contiguous. Not changed.
        out: uint8 or int8 (k,), contiguous and writable.
        bits: bits of a code, 1 to 7.

    Raises:
        ValueError, TypeError: an argument is not as described; nothing was written.
    """
    backend = backend_of(packed, out)
    _check_packed(out, packed, bits)
    check_vector("packed", packed)
    check_vector("out", out, writable=True)
    backend.unpack_bits(packed, out, bits)


def _check_packed(codes: NDArray[Any], packed: NDArray[Any], bits: int) -> None:
    if codes.dtype not in (np.uint8, np.int8):
        raise TypeError(f"codes are uint8 or int8, not {codes.dtype}")
    if packed.dtype != np.uint8:
        raise TypeError(f"packed codes are uint8, not {packed.dtype}")
    if packed.size != packed_size(codes.size, bits):
        raise ValueError(
            f"{codes.size} codes of {bits} bits are {packed_size(codes.size, bits)} bytes, not {packed.size}"
        )
