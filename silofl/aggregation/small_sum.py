"""Masked sums of a few words, which every rank gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.secagg_round import AdvertisedRound, SecAggRound
from silofl.aggregation.secure_session import SecureSession
from silofl.comm.protocol import Communicator
from silofl.crypto.kdf import digest
from silofl.crypto.secagg import SumInputs
from silofl.errors import ProtocolError
from silofl_kernels import MaskSet, add_masks

Words = NDArray[np.unsignedinteger[Any]]
Encode = Callable[[int], Words]
"""encode(silos) gives this silo's words for a sum over so many silos; never more words for fewer silos."""
ALONE = SumInputs(terms=digest("small sum of its own"))
"""Nothing decides a small sum but its words."""


def masked_total(
    comm: Communicator,
    words: Words,
    masks: MaskSet,
    offset: int,
    signed_by: SecAggRound | None = None,
    decided: bytes = b"",
) -> Words:
    """Sum over ranks of words plus masks, masks still on; collective.

    Args:
        comm: the ranks.
        words: uintB (k,), of this rank.
        masks: what hides them.
        offset: where the masks begin.
        signed_by: signs and checks each rank's words; None where a vote vouches for the sum.
        decided: what they are signed for, beside their place.

    Raises:
        ProtocolError: a silo's words are too many, too few or not signed; it is named.
    """
    masked = words.copy()
    add_masks(masked, masks, offset=offset)
    sent = masked.tobytes()
    messages = comm.allgather_bytes(sent if signed_by is None else signed_by.signed(sent, offset, decided))
    rows = [
        _row(message if signed_by is None else signed_by.checked(message, offset, decided, silo), words, silo)
        for message, silo in zip(messages, comm.members, strict=True)
    ]
    total: Words = np.add.reduce(rows, axis=0, dtype=words.dtype)
    return total


def _row(message: bytes, words: Words, silo: int) -> Words:
    if len(message) != words.nbytes:
        raise ProtocolError(
            f"silo {silo}'s words of a small sum are refused: {len(message)} bytes, not {words.nbytes}",
            sender=silo,
        )
    row: Words = np.frombuffer(message, words.dtype)
    return row


def secure_total(session: SecureSession, encode: Encode) -> tuple[Words, int]:
    """Sum over silos of a few words, and of how many silos, by a keyed round of its own; collective.

    Opened as the vectors' sums are: a silo that is lost is in it or not, but never in one of two sums.
    """
    group, number = session.group, session.take_number()

    def collect() -> tuple[SecAggRound, Words]:
        words = encode(len(group.members))
        advertised = AdvertisedRound(group.comm, session.round(number), session.identity)
        keys = advertised.keys(len(words))
        return keys, masked_total(group.comm, words, keys.bind(ALONE), 0)

    keys, total = group.step(collect)
    keys.heard(total, len(keys.members))
    left = group.step(lambda: keys.open(group.comm, keys.members))
    add_masks(total, left)
    return total, len(keys.members)


class SmallSums:
    """Sums under the pair masks for small sums of one keyed round, at positions that are used once.

    Attributes:
        decided: digest (32 bytes) of what the next sum's numbers are made from: equal on all silos, or the
            sum stays noise.
        settled: the silos for which the round's sum was opened; sums that are not `repeatable` are over
            these or void, so that two runs of one round cannot show sums over others. None where any do.
    """

    def __init__(self, session: SecureSession, keys: SecAggRound, decided: bytes) -> None:
        self._session, self._keys, self._next = session, keys, 0
        self.decided = decided
        self.settled: tuple[int, ...] | None = None

    def total(self, encode: Encode, *, repeatable: bool) -> tuple[Words, int] | None:
        """The sum over the silos that are left, and how many they are; collective.

        Two sums that differ by one silo show what it brought, and one whose words all went out can be read on
        the wire. So when a silo is lost after another sent its words, the sum is None. One that is
        `repeatable` stays what it was for a rank that has it, or is taken again over the silos that are left.
        `encode` is called anew for that: words that nothing but the sum determines are drawn again.

        The vote on the round vouches for sums that are `repeatable`; the words of others are signed.
        """
        group, keys = self._session.group, self._keys
        silos = len(keys.members)
        drawn = {0: encode(silos)}  # by how many silos are lost: a position never meets other words
        width = len(drawn[0])
        start, self._next = self._next, self._next + silos * width
        sent, seen = False, b""  # seen: number of silos and the words of their sum

        def reduce() -> tuple[Words, int] | None:
            nonlocal sent, seen
            left, comm = group.members, group.comm
            lost, known, teller = silos - len(left), b"", left[0]
            if not repeatable and self.settled not in (None, left):
                return None
            if lost:
                told = comm.allgather_bytes(seen if repeatable else b"sent" * sent)
                heard = [(silo, one) for silo, one in zip(left, told, strict=True) if one]
                teller, known = heard[0] if heard else (teller, known)
            if known and not repeatable:
                return None
            if lost not in drawn:
                drawn[lost] = encode(len(left))
            words = drawn[lost]
            if not known:
                sent = True
                at = start + lost * width
                signed_by = None if repeatable else keys
                masks = keys.small_masks(left, self.decided)
                total = masked_total(comm, words, masks, at, signed_by, self.decided)
                known = len(left).to_bytes(8) + total.tobytes()
            seen = known
            return _row(known[8:], words, teller), int.from_bytes(known[:8])

        return group.step(reduce)
