"""Eager path of short messages: slots of one size carry lengths and bytes in one collective."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

SHORT_BYTES = 2032
"""Capacity of a slot of 2 KiB: every message of a secure sum among a few silos fits."""
_HEAD = struct.Struct("=QQ")

Slots = NDArray[np.uint8]


def slot(payload: bytes, longest: int) -> Slots:
    """uint8 (2048,): the payload's length, the length of this rank's longest one, and a short payload."""
    head = _HEAD.pack(len(payload), longest)
    text = head + payload if len(payload) <= SHORT_BYTES else head
    return np.frombuffer(text.ljust(_HEAD.size + SHORT_BYTES, b"\0"), np.uint8)


def empty(ranks: int) -> Slots:
    """Receive buffer for the slots of all ranks, uint8 (ranks, 2048)."""
    return np.empty((ranks, _HEAD.size + SHORT_BYTES), np.uint8)


def lengths(slots: Slots) -> list[int]:
    """Length of each rank's payload."""
    return [_HEAD.unpack_from(row)[0] for row in slots]


def longest(slots: Slots) -> int:
    """Length of the longest payload that any rank sends to any other: the same on every rank."""
    return max(int(_HEAD.unpack_from(row)[1]) for row in slots)


def contents(slots: Slots) -> list[bytes] | None:
    """Payload of each rank; None, on every rank, where any is too long for its slot."""
    if longest(slots) > SHORT_BYTES:
        return None
    return [
        row[_HEAD.size : _HEAD.size + length].tobytes()
        for row, length in zip(slots, lengths(slots), strict=True)
    ]
