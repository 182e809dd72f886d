"""Whether what a server says of its slice is what a rank that checks the slice gets for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from silofl.errors import ProtocolError
from silofl.types import Vector

BLOCK = 1 << 15
"""Words that are compared at a time: so few that what they differ in fits the cache."""


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


def _same_bytes(one: Vector, other: Vector) -> bool:
    words, others = one.view(np.uint32), other.view(np.uint32)
    blocks = (slice(start, start + BLOCK) for start in range(0, len(words), BLOCK))
    return all(np.array_equal(words[block], others[block]) for block in blocks)
