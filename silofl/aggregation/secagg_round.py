"""One round of `secagg` on one rank: moves the protocol's messages between the pure steps of `crypto`."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from silofl.aggregation.formats.base import Words
from silofl.comm.protocol import Communicator
from silofl.crypto import secagg
from silofl.crypto.fingerprint import fingerprint
from silofl.crypto.framing import Inbox, outbox
from silofl.crypto.identity import Identity
from silofl.crypto.kdf import digest
from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import Masking, Round, SumInputs
from silofl.crypto.secagg.inputs import NOTHING
from silofl.types import Vector
from silofl_kernels import MaskSet


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
        self._masking = masking
        self._heard = [self._masking.transcript]
        self._small: dict[tuple[frozenset[int], bytes], MaskSet] = {}

    def fingerprint(self, vectors: Sequence[Vector]) -> bytes:
        """32 bytes that two silos have in common only if their vectors (k,), contiguous, are equal.

        For vectors that were given out before this round's keys were made.
        """
        return fingerprint(self._masking.participants.digest, vectors) if vectors else NOTHING

    def bind(self, inputs: SumInputs) -> MaskSet:
        """What hides this silo's vector in the one sum that `inputs` decide: self mask, and pairs' masks."""
        return mask_set(secagg.bind(self._masking, inputs))

    def heard(self, total: Words, silos: int) -> None:
        """Have the vote vouch for a small sum, or the tail, as this rank computed it."""
        self._heard.append(silos.to_bytes(8) + total.tobytes())

    def signed(self, words: bytes, position: int, decided: bytes) -> bytes:
        """Masked words of a small sum that no later vote vouches for, as they travel."""
        return secagg.sign_words(self._masking, position, decided, words)

    def checked(self, message: bytes, position: int, decided: bytes, silo: int) -> bytes:
        """The words in what a silo sent; ProtocolError, naming it, unless it `signed` them."""
        return secagg.check_words(self._masking, silo, position, decided, message)

    def state(self, comm: Communicator, inputs: SumInputs) -> None:
        """Raise ProtocolError, naming a silo, where one has other inputs, without any vote; collective."""
        own = secagg.state_inputs(self._masking, inputs)
        secagg.check_inputs(self._masking, inputs, Inbox.of(comm.allgather_bytes(own), comm.members))

    def small_masks(self, among: Collection[int], decided: bytes) -> MaskSet:
        """Masks of pairs alone, which cancel in a small sum over exactly the silos `among`.

        Each of their positions is used once. Nothing recovers such a sum: it is void when a silo is lost.
        `decided` is a digest (32 bytes) of what the numbers were made from.
        """
        chosen = frozenset(among), decided
        if chosen not in self._small:
            self._small[chosen] = mask_set(secagg.small_keys(self._masking, *chosen))
        return self._small[chosen]

    def open(self, comm: Communicator, survivors: Collection[int]) -> MaskSet:
        """What to add to the sum of the survivors' masked vectors to have the plain one; collective.

        Over the ranks that are left, of whom some survivors may be missing. It can be taken again with fewer
        ranks, for the same survivors only.
        """
        comm.mark("agree")
        agreed, vote = secagg.agree(self._masking, survivors, digest("small sums", *self._heard))
        votes = Inbox.of(comm.allgather_bytes(vote), comm.members)
        comm.mark("reveal")
        revealed, reveal = secagg.reveal(agreed, votes)
        reveals = Inbox.of(comm.allgather_bytes(reveal), comm.members)
        comm.mark("unmask")
        return mask_set(secagg.unmask(revealed, reveals))


def mask_set(keys: MaskKeys) -> MaskSet:
    """The protocol's keys as the kernels take them."""
    return MaskSet(keys.prg, keys.expose(), keys.signs)
