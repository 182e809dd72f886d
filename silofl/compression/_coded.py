"""Packets of a scale for each bucket of values, and a code of few bits for each value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.compression.base import Draw
from silofl.types import Vector


def uniform(count: int, draw: Draw) -> NDArray[np.float64]:
    """Numbers from 0 to 1 that a silo rounds by, (count,)."""
    from silofl_kernels import Stream, keystream  # with its compiler, which a configuration does not need

    words = np.empty(count, np.uint32)
    keystream(Stream("aes-128-ctr", draw.key), words.view(np.uint8))
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def buckets(length: int, bucket: int) -> int:
    """How many buckets of so many values a vector has; the last may be shorter."""
    return -(-length // bucket)


def pack_coded(scales: NDArray[Any], codes: NDArray[np.int8], bits: int) -> bytes:
    """Scales, float32 each, and signed codes of `bits` bits."""
    from silofl_kernels import pack_bits, packed_size

    out = np.empty(packed_size(len(codes), bits), np.uint8)
    pack_bits(codes, out, bits=bits)
    return scales.astype("<f4").tobytes() + out.tobytes()


def unpack_coded(packet: bytes, length: int, bucket: int, bits: int, dtype: np.dtype[Any]) -> Vector:
    """Scale times code (`length`,). ValueError where that is none."""
    from silofl_kernels import packed_size, unpack_bits

    count = buckets(length, bucket)
    if len(packet) != 4 * count + packed_size(length, bits):
        raise ValueError(f"{len(packet)} bytes of {length} values")
    scales = np.frombuffer(packet[: 4 * count], "<f4")
    if not np.isfinite(scales).all():
        raise ValueError("a scale that is not finite")
    codes = np.empty(length, np.int8)
    unpack_bits(np.frombuffer(packet[4 * count :], np.uint8).copy(), codes, bits=bits)
    with np.errstate(over="ignore"):  # what is infinite is refused like any other
        return np.asarray(np.repeat(scales.astype(dtype), bucket)[:length] * codes, dtype)


def scales_of(values: Vector, bucket: int, order: float) -> NDArray[np.float32]:
    """The norm of each bucket, 2 or infinity, rounded up to float32."""
    padded = np.zeros(buckets(len(values), bucket) * bucket)
    padded[: len(values)] = values
    norms = np.linalg.norm(padded.reshape(-1, bucket), order, axis=1)
    with np.errstate(over="ignore"):  # limited below
        found = norms.astype(np.float32)
        up = np.nextafter(found, np.float32(np.inf))
    return np.asarray(np.minimum(np.where(found < norms, up, found), np.finfo(np.float32).max))
