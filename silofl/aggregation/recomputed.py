"""Whether what a server says of its slice is what a rank that checks the slice gets, or had, for it."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping

from silofl.errors import ProtocolError
from silofl.types import Vector

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def refuse_difference(
    server: int, silo: int, what: str, given: Mapping[str, Vector], own: Mapping[str, Vector]
) -> None:
    """Raise ProtocolError, naming both silos, where a vector is not bit for bit the one of `silo`.

    Args:
        server: the silo that handed the vectors out.
        silo: this one, which has them from a computation of its own.
        what: what they are of, for the message.
        given: by name, what the server says (k,), float32 or float64, contiguous.
        own: by name, what it should be, of the same types and lengths.
    """
    for name, values in own.items():
        if not _same_bytes(given[name], values):
            raise ProtocolError(
                f"silo {server}'s {name} of {what} and silo {silo}'s recomputation of it differ: one of the "
                "two lies or computes wrongly; nothing was trained on it, and it is not committed",
                sender=server,
            )


def digests(vectors: Mapping[str, Vector]) -> dict[str, str]:
    """SHA-256 of each vector (k,), contiguous: what a rank that checks a slice commits of it."""
    return {name: hashlib.sha256(values.data).hexdigest() for name, values in vectors.items()}


def refuse_change(
    server: int, silo: int, what: str, given: Mapping[str, Vector], known: Mapping[str, str]
) -> None:
    """Raise ProtocolError, naming both silos, where a vector's digest is not the one that `silo` kept.

    Args:
        server: the silo that handed the vectors out, at a resume.
        silo: this one.
        what: what they are of, for the message.
        given: by name, what the server says (k,), contiguous.
        known: `digests` of them from when the round was committed.
    """
    found = digests(given)
    for name, digest in known.items():
        if found.get(name) != digest:
            raise ProtocolError(
                f"silo {server}'s {name} of {what} and what silo {silo} committed of its recomputation "
                "differ: one of the two lies or has another checkpoint; nothing was trained on it",
                sender=server,
            )


def _same_bytes(one: Vector, other: Vector) -> bool:
    """By memcmp: NumPy's comparison writes what it finds of each value."""
    return one.nbytes == other.nbytes and _memcmp(one.ctypes.data, other.ctypes.data, one.nbytes) == 0
