"""Masked sums of a few words, which everybody gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.secagg_round import SecAggRound
from silofl.aggregation.secure_session import SecureSession
from silofl.comm.protocol import Communicator
from silofl_kernels import MaskSet, add_masks

Words = NDArray[np.unsignedinteger[Any]]
Encode = Callable[[int], Words]
"""encode(silos) gives this silo's words for a sum over so many silos; never more words for fewer silos."""


def masked_total(comm: Communicator, words: Words, masks: MaskSet, offset: int) -> Words:
    """Sum over ranks of words plus masks, masks still on; collective. `offset` is where the masks begin."""
    masked = words.copy()
    add_masks(masked, masks, offset=offset)
    rows = [np.frombuffer(message, words.dtype) for message in comm.allgather_bytes(masked.tobytes())]
    total: Words = np.add.reduce(rows, axis=0, dtype=words.dtype)
    return total


def secure_total(session: SecureSession, encode: Encode) -> tuple[Words, int]:
    """Sum over silos of a few words, and of how many silos, by a keyed round of its own; collective.

    UnmaskedSum as the vectors' sums are: a silo that is lost is in it or not, but never in one of two sums.
    """
    group, number = session.group, session.take_number()

    def collect() -> tuple[SecAggRound, Words]:
        words = encode(len(group.members))
        keys = SecAggRound(group.comm, session.round(number), session.identity, len(words))
        return keys, masked_total(group.comm, words, keys.masks, 0)

    keys, total = group.step(collect)
    left = group.step(lambda: keys.open(group.comm, keys.members))
    add_masks(total, left)
    return total, len(keys.members)


class SmallSums:
    """Sums under the pair masks for small sums of one keyed round, at positions that are used
    once.
    """

    def __init__(self, session: SecureSession, keys: SecAggRound) -> None:
        self._session, self._keys, self._next = session, keys, 0

    def total(self, encode: Encode, *, repeatable: bool) -> tuple[Words, int] | None:
        """The sum over the silos that are left, and how many they are; collective.

        Two sums that differ by one silo show what it brought. So when a silo is lost after somebody saw the
        sum, it is None, unless it is `repeatable`: one of which nobody minds.
        """
        group, keys = self._session.group, self._keys
        silos = len(keys.members)
        width = len(encode(silos))
        start, self._next = self._next, self._next + silos * width
        seen: list[Words] = []

        def reduce() -> tuple[Words, int] | None:
            left, comm = group.members, group.comm
            lost = silos - len(left)
            if lost and not repeatable and any(comm.allgather_bytes(b"seen" if seen else b"")):
                return None
            at = start + lost * width
            words = masked_total(comm, encode(len(left)), keys.small_masks(left), at)
            seen.append(words)
            return words, len(left)

        return group.step(reduce)
