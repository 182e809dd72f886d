"""Parts of packets: few of a vector's values with their places, and floats of two bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.types import Vector

FAR = 0xFFFF
"""A distance that says: so far on, and there is none yet."""


def to_bfloat16(values: Vector) -> NDArray[np.uint16]:
    """The upper halves of float32 (k,), finite, rounded to nearest even; values beyond become the largest."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    largest = np.where(bits >> 31, 0xFF7F, 0x7F7F)
    return np.where(rounded & 0x7F80 == 0x7F80, largest, rounded).astype(np.uint16)


def from_bfloat16(halves: NDArray[np.uint16], dtype: np.dtype[Any]) -> Vector:
    """Their values; ValueError where one is not finite."""
    values = (halves.astype(np.uint32) << 16).view(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("a value that is not finite")
    return values.astype(dtype)


def pack_sparse(places: NDArray[Any], values: Vector) -> bytes:
    """Distances between places (k,), ascending, two bytes each but for the farthest; and bfloat16 values."""
    steps = np.diff(places.astype(np.int64), prepend=-1) - 1
    far, near = np.divmod(steps, FAR)
    marks = np.full(int(far.sum()) + len(steps), FAR, "<u2")
    marks[np.cumsum(far + 1) - 1] = near
    return np.uint32(len(places)).tobytes() + marks.tobytes() + to_bfloat16(values).astype("<u2").tobytes()


def unpack_sparse(packet: bytes, length: int, dtype: np.dtype[Any]) -> Vector:
    """The vector (`length`,) that has these values at these places, and zeros elsewhere."""
    if len(packet) < 4 or len(packet) % 2:
        raise ValueError("a packet of no count, or of half a number")
    count = int.from_bytes(packet[:4], "little")
    words = np.frombuffer(packet[4:], "<u2")
    if count > len(words) // 2:
        raise ValueError(f"{count} values in {len(words)} numbers")
    marks, halves = words[: len(words) - count], words[len(words) - count :]
    ends = np.flatnonzero(marks != FAR)
    if len(ends) != count or (len(marks) and marks[-1] == FAR):
        raise ValueError(f"{len(ends)} places of {count} values")
    places = np.cumsum(marks.astype(np.int64) + (marks != FAR))[ends] - 1
    if count and places[-1] >= length:
        raise ValueError(f"place {places[-1]} of {length}")
    vector = np.zeros(length, dtype)
    vector[places] = from_bfloat16(halves, dtype)
    return vector
