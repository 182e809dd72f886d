"""One round of `secagg` on one rank: moves the protocol's messages between the pure steps of `crypto`.

Each step but the fourth is a file of `crypto/secagg`, named after it, and a `comm.mark` here:

    1 advertise  every silo signs fresh public keys for this round alone
    2 share      every silo deals out shares of its secrets, sealed to their receivers
    3 mask       masks of pairs, which cancel in the sum, and a self mask, which survivors help to take off
    4 collect    the masked words change hands and are added up: `reduce_scatter.py`
    5 agree      every rank signs one vote for one set of silos: the adverts, the sum's inputs (model, terms,
                 total weight, ranges), the small sums before it, and which silos are in it
    6 reveal     of each silo in the sum its self mask's shares, of each lost one those of its pairs' key
    7 unmask     the masks that are left in the sum, from a threshold of shares

Sums of a few words, such as the agreement on ranges and the tail, go under masks of the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from silofl.aggregation.secure_session import SecureSession
from silofl.comm.protocol import Communicator
from silofl.crypto import secagg
from silofl.crypto.fingerprint import fingerprint
from silofl.crypto.framing import Inbox, outbox
from silofl.crypto.identity import SIGNATURE_BYTES, Identity
from silofl.crypto.kdf import digest
from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import Masking, Round, SumInputs
from silofl.crypto.secagg.inputs import NOTHING
from silofl.errors import ProtocolError
from silofl.types import Vector, Words
from silofl_kernels import MaskSet, add_masks, ring_dtype

Encode = Callable[[int], Words]
"""encode(silos) gives this silo's words for a sum over so many silos; never more words for fewer silos."""
ALONE = SumInputs(terms=digest("small sum of its own"))
"""Nothing decides a small sum but its words."""


class AdvertisedRound:
    """Everybody's fresh public keys, whatever they will hide; collective to make.

    OtherTermsError, on every rank, unless all expect the same members, rules and matter of the sum.
    """

    def __init__(self, comm: Communicator, context: Round, identity: Identity) -> None:
        comm.mark("advertise")
        silos = comm.members
        advertised, advert = secagg.advertise(context, silos[comm.rank], identity)
        self._comm, self._silos = comm, silos
        self._shared, self._packets = secagg.share(advertised, Inbox.of(comm.allgather_bytes(advert), silos))

    def keys(self, length: int) -> SecAggRound:
        """The keys for one masked vector of `length` ring words of each rank; collective, once."""
        comm, silos = self._comm, self._silos
        comm.mark("share")
        received = Inbox.of(comm.alltoall_bytes(outbox(self._packets, silos)), silos)
        comm.mark("mask")
        return SecAggRound(secagg.mask(self._shared, received, silos, length), silos)


class SecAggRound:
    """Fresh keys for one masked vector of each rank, made by an `AdvertisedRound`.

    Args:
        masking: what hides this silo's vector, once it is known what decides the sum.
        members: the silos that have these keys.
    """

    def __init__(self, masking: Masking, members: tuple[int, ...]) -> None:
        self.members = members
        self.masking = masking
        self._heard = [self.masking.transcript]
        self._small: dict[tuple[frozenset[int], bytes], MaskSet] = {}

    def fingerprint(self, vectors: Sequence[Vector]) -> bytes:
        """32 bytes that two silos have in common only if their vectors (k,), contiguous, are equal.

        For vectors that were given out before this round's keys were made.
        """
        return fingerprint(self.masking.participants.digest, vectors) if vectors else NOTHING

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of ring words."""
        return ring_dtype(self.masking.party.context.rules.bits)

    def bind(self, inputs: SumInputs) -> MaskKeys:
        """What hides this silo's vector in the one sum that `inputs` decide: self mask, and pairs' masks."""
        return secagg.bind(self.masking, inputs)

    def heard(self, total: Words, silos: int) -> None:
        """Have the vote vouch for a small sum, or the tail, as this rank computed it."""
        self._heard.append(silos.to_bytes(8) + total.tobytes())

    def signed(self, words: bytes, position: int, decided: bytes) -> bytes:
        """Masked words of a small sum, as they travel."""
        return secagg.sign_words(self.masking, position, decided, words)

    def checked(self, message: bytes, position: int, decided: bytes, silo: int) -> bytes:
        """The words in what a silo sent; ProtocolError, naming it, unless it `signed` them."""
        return secagg.check_words(self.masking, silo, position, decided, message)

    def state(self, comm: Communicator, inputs: SumInputs) -> None:
        """Raise ProtocolError, naming a silo, where one has other inputs, without any vote; collective."""
        own = secagg.state_inputs(self.masking, inputs)
        secagg.check_inputs(self.masking, inputs, Inbox.of(comm.allgather_bytes(own), comm.members))

    def small_masks(self, among: Collection[int], decided: bytes) -> MaskSet:
        """Masks of pairs alone, which cancel in a small sum over exactly the silos `among`.

        Each of their positions is used once. Nothing recovers such a sum: it is void when a silo is lost.
        `decided` is a digest (32 bytes) of what the numbers were made from.
        """
        chosen = frozenset(among), decided
        if chosen not in self._small:
            self._small[chosen] = mask_set(secagg.small_keys(self.masking, *chosen))
        return self._small[chosen]

    def peers(self, silo: int, among: Collection[int]) -> list[int]:
        """The silos of `among`, ascending, with which a silo's words of a small sum have masks in common."""
        return sorted(self.masking.participants.neighbours[silo] & set(among))

    def pair_words(
        self, among: Collection[int], decided: bytes, places: Sequence[int], width: int
    ) -> dict[int, Words]:
        """By peer: the mask of the pair at `width` words from each place on, (places * width,).

        Whoever has a silo's masked words and these has its words there, and no others of it.
        """
        keys = secagg.small_keys(self.masking, among, decided)
        dtype, found = self.dtype, dict[int, Words]()
        for peer, key in zip(self.peers(self.masking.me, among), keys.expose(), strict=True):
            words = np.zeros((len(places), width), dtype)
            for row, place in zip(words, places, strict=True):
                add_masks(row, MaskSet(keys.prg, [key], [1]), offset=place)
            found[peer] = words.reshape(-1)
        return found

    def open(self, comm: Communicator, survivors: Collection[int]) -> MaskKeys:
        """What to add to the sum of the survivors' masked vectors to have the plain one; collective.

        Over the ranks that are left, of whom some survivors may be missing. It can be taken again with fewer
        ranks, for the same survivors only.
        """
        comm.mark("agree")
        agreed, vote = secagg.agree(self.masking, survivors, digest("small sums", *self._heard))
        votes = Inbox.of(comm.allgather_bytes(vote), comm.members)
        comm.mark("reveal")
        revealed, reveal = secagg.reveal(agreed, votes)
        reveals = Inbox.of(comm.allgather_bytes(reveal), comm.members)
        comm.mark("unmask")
        return secagg.unmask(revealed, reveals)


def mask_set(keys: MaskKeys) -> MaskSet:
    """The protocol's keys as the kernels take them."""
    return MaskSet(keys.prg, keys.expose(), keys.signs)


def masked_total(
    comm: Communicator,
    words: Words,
    masks: MaskSet,
    offset: int,
    signed_by: SecAggRound | None = None,
    decided: bytes = b"",
    *,
    checked: bool = True,
    held: dict[int, bytes] | None = None,
) -> Words:
    """Sum over ranks of words plus masks, masks still on; collective.

    Args:
        comm: the ranks.
        words: uintB (k,), of this rank.
        masks: what hides them.
        offset: where the masks begin.
        signed_by: signs each rank's words; None where nobody asks whose they were.
        decided: what they are signed for, beside their place.
        checked: whether signatures are; not where a vote vouches for the sum.
        held: gets every silo's words as they came.

    Raises:
        ProtocolError: a silo's words are too many, too few or not signed; it is named.
    """

    def words_of(message: bytes, silo: int) -> bytes:
        if signed_by is None:
            return message
        return signed_by.checked(message, offset, decided, silo) if checked else message[:-SIGNATURE_BYTES]

    masked = words.copy()
    add_masks(masked, masks, offset=offset)
    sent = masked.tobytes()
    messages = comm.allgather_bytes(sent if signed_by is None else signed_by.signed(sent, offset, decided))
    told = dict(zip(comm.members, messages, strict=True))
    rows = [_row(words_of(message, silo), words, silo) for silo, message in told.items()]
    if held is not None:
        held.update(told)
    return np.asarray(np.add.reduce(rows, axis=0, dtype=words.dtype))


def _row(message: bytes, words: Words, silo: int) -> Words:
    if len(message) != words.nbytes:
        raise ProtocolError(
            f"silo {silo}'s words of a small sum are refused: {len(message)} bytes, not {words.nbytes}",
            sender=silo,
        )
    row: Words = np.frombuffer(message, words.dtype)
    return row


def secure_total(session: SecureSession, encode: Encode) -> tuple[Words, int]:
    """`secure_total_over` whichever silos are left."""
    found = secure_total_over(None, session, encode)
    assert found is not None, "no silo was asked for"
    return found


def secure_total_over(
    present: tuple[int, ...] | None, session: SecureSession, encode: Encode
) -> tuple[Words, int] | None:
    """Sum over silos of a few words, and of how many silos, by a keyed round of its own; collective.

    Opened as the vectors' sums are: a silo that is lost is in it or not, but never in one of two sums. Where
    silos are asked for, by `present`, and one is lost, it stays closed, and there is none.
    """
    group, number = session.group, session.take_number()

    def collect() -> tuple[SecAggRound, Words]:
        words = encode(len(group.members))
        advertised = AdvertisedRound(group.comm, session.round(number), session.identity)
        keys = advertised.keys(len(words))
        return keys, masked_total(group.comm, words, mask_set(keys.bind(ALONE)), 0)

    keys, total = group.step(collect)
    if present is not None and keys.members != present:
        return None
    keys.heard(total, len(keys.members))
    left = group.step(lambda: keys.open(group.comm, keys.members))
    add_masks(total, mask_set(left))
    return total, len(keys.members)


@dataclass(frozen=True)
class HeldSum:
    """A small sum as a rank saw it added up."""

    messages: Mapping[int, bytes]
    """By silo: its masked words and signature, not checked; none where another rank told the sum."""
    silos: tuple[int, ...]
    start: int
    """Where its masks begin."""
    decided: bytes
    """See `SmallSums.decided`."""


class SmallSums:
    """Sums under the pair masks for small sums of one keyed round, at positions that are used once.

    Attributes:
        decided: digest (32 bytes) of what the next sum's numbers are made from: equal on all silos, or the
            sum stays noise.
        present: the silos that were there when the opening of the round's sum was authorized; sums that are
            not `repeatable` are over these or void, so that two runs of one round cannot show sums over
            others. None where any do.
    """

    def __init__(self, session: SecureSession, keys: SecAggRound, decided: bytes) -> None:
        self._session, self._keys, self._next = session, keys, 0
        self.decided = decided
        self.present: tuple[int, ...] | None = None
        self.held: HeldSum | None = None
        """The last sum; None where it is void."""

    def total(self, encode: Encode, *, repeatable: bool) -> tuple[Words, int] | None:
        """The sum over the silos that are left, and how many they are; collective.

        Two sums that differ by one silo show what it brought, and one whose words all went out can be read on
        the wire. So when a silo is lost after another sent its words, the sum is None. One that is
        `repeatable` stays what it was for a rank that has it, or is taken again over the silos that are left.
        `encode` is called anew for that: words that nothing but the sum determines are drawn again.

        The vote on the round vouches for sums that are `repeatable`; of others the signatures are checked.
        """
        group, keys = self._session.group, self._keys
        silos = len(keys.members)
        drawn = {0: encode(silos)}  # by how many silos are lost: a position never meets other words
        width = len(drawn[0])
        start, self._next = self._next, self._next + silos * width
        self.held = None
        sent, seen = False, b""  # seen: number of silos and the words of their sum
        tried: dict[int, tuple[int, ...]] = {}  # by how many silos are left: who sent words

        def reduce() -> tuple[Words, int] | None:
            nonlocal sent, seen
            left, comm = group.members, group.comm
            lost, known, teller = silos - len(left), b"", left[0]
            if not repeatable and self.present not in (None, left):
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
                tried[len(left)] = left
                masks, came = keys.small_masks(left, self.decided), dict[int, bytes]()
                by = keys, self.decided
                total = masked_total(comm, words, masks, at, *by, checked=not repeatable, held=came)
                self.held = HeldSum(came, left, at, self.decided)
                known = len(left).to_bytes(8) + total.tobytes()
            seen, count = known, int.from_bytes(known[:8])
            if self.held is None and count in tried:
                self.held = HeldSum({}, tried[count], start + (silos - count) * width, self.decided)
            return _row(known[8:], words, teller), count

        return group.step(reduce)
