"""One round of `secagg` on one rank: moves the protocol's messages between the pure steps of `crypto`."""

from __future__ import annotations

from silofl.comm.protocol import Communicator
from silofl.crypto import secagg
from silofl.crypto.identity import Identity
from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import Round
from silofl.crypto.wire import Inbox, outbox
from silofl_kernels import MaskSet


class KeyedRound:
    """Fresh keys for one masked vector of `length` ring words, all ranks taking part; collective to make.

    Attributes:
        masks: what hides this silo's vector: its self mask and one mask for each neighbour.
        pair_masks: the masks of pairs alone, which cancel in a sum over all silos by themselves. They hide
            small sums of the same round at positions that nothing else uses, also after the self masks were
            opened. Such a sum has no recovery: it is void when a silo is lost.
        pledge: this silo's word on what it masks, which everybody needs before the sum is opened.
    """

    def __init__(self, comm: Communicator, context: Round, identity: Identity, length: int) -> None:
        self._comm = comm
        silos = range(comm.size)

        # Everybody's fresh public keys, then everybody's sealed shares.
        advertised, advert = secagg.advertise(context, comm.rank, identity)
        shared, packets = secagg.share(advertised, Inbox.of(comm.allgather_bytes(advert)))
        received = Inbox.of(comm.alltoall_bytes(outbox(packets, silos)))

        # What hides this silo's vector.
        self._masking, keys, self.pledge = secagg.mask(shared, received, silos, length)
        self.masks = mask_set(keys)
        self.pair_masks = self.masks.without_first()

    def open(self, pledges: list[bytes]) -> MaskSet:
        """Once all masked vectors are in the sum: what to add to it to have the plain one; collective."""
        comm = self._comm
        agreed, vote = secagg.agree(self._masking, range(comm.size), Inbox.of(pledges))
        revealed, reveal = secagg.reveal(agreed, Inbox.of(comm.allgather_bytes(vote)))
        return mask_set(secagg.unmask(revealed, Inbox.of(comm.allgather_bytes(reveal))))


def mask_set(keys: MaskKeys) -> MaskSet:
    """The protocol's keys as the kernels take them."""
    return MaskSet(keys.prg, keys.expose(), keys.signs)
