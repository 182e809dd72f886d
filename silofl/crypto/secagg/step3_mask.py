"""Step 3, mask: which keystreams hide this silo's vector (Bonawitz et al. 2017, round 2).

y_i = x_i + PRG(b_i) + sum over neighbours j > i of PRG(s_ij) - sum over neighbours j < i of PRG(s_ij).

Both keys depend on what decides the sum: where two silos were given other ranges, weights or models, the
masks between them do not cancel, whatever votes are kept from whom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from silofl.crypto.kdf import digest
from silofl.crypto.masks import MaskKeys, Sign, mask_key, mask_keys
from silofl.crypto.sealing import OVERHEAD, associated_data, unseal
from silofl.crypto.secagg.inputs import SumInputs
from silofl.crypto.secagg.messages import Deal, receive
from silofl.crypto.secagg.participants import Participants, refuse_thin_neighbourhoods, refuse_too_few
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step1_advertise import Party
from silofl.crypto.secagg.step2_share import Shared, SharePair, check_pair
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import SHARE_BYTES, Share
from silofl.errors import ProtocolError

_BOX_BYTES = OVERHEAD + 2 * SHARE_BYTES


class Masking(Stage):
    """After step 3: this silo holds its neighbours' shares, and knows its masks once it is bound to a sum."""

    def __init__(
        self,
        shared: Shared,
        deals: Mapping[int, Deal],
        held: Mapping[int, SharePair],
        secrets: Mapping[int, Secret],
        length: int,
    ) -> None:
        party = shared.party
        super().__init__(party.me, party.context.number)
        self.party = party
        self.participants = shared.participants
        self.channels = shared.channels
        self.deals = deals
        """Of all silos that shared."""
        self.commitments = {dealer: deal.digests() for dealer, deal in deals.items()}
        self.held = held
        """The shares that this silo holds, by dealer."""
        self.secrets = secrets
        """What this silo has in common with each neighbour that shared: the source of a pair's mask."""
        self.transcript = _transcript(shared.participants, deals)
        self.length = length
        """Ring words that are masked."""
        self.inputs: SumInputs | None = None
        """What the sum is bound to."""


def mask(stage: Shared, packets: Mapping[int, bytes], shared: Collection[int], length: int) -> Masking:
    """Take the packets of all silos that shared: all is there that masks are made of.

    `shared` is the set of silos whose packets reached all others, the same on every silo and with this one
    in it; packets of others are left out of the round. `length` is how many ring words will be masked.

    ProtocolError names the silo of a bad or missing packet; ThresholdError when too few silos are left.
    """
    request = (frozenset(shared), length)
    return stage.once("mask", request, lambda: _mask(stage, packets, frozenset(shared), length))


def bind(stage: Masking, inputs: SumInputs) -> MaskKeys:
    """This silo's masks in the sum that `inputs` decide, before anything of that sum has left the silo.

    They are for one vector in this round: masking two different ones by them would show their difference.
    ProtocolError when the round was bound to other inputs before.
    """
    if stage.inputs is not None and stage.inputs != inputs:
        raise ProtocolError(
            f"silo {stage.me} has masked for other inputs ({stage.inputs.difference(inputs)}) in round "
            f"{stage.party.context.number}; a second sum under the same shares is refused"
        )
    stage.inputs = inputs
    return _own_masks(stage, inputs)


def _mask(stage: Shared, packets: Mapping[int, bytes], shared: frozenset[int], length: int) -> Masking:
    _check_shared(stage, shared)
    deals, held = {stage.me: stage.deal}, {stage.me: stage.own}
    for silo in sorted(shared - {stage.me}):
        deals[silo], pair = _open_packet(stage, silo, packets.get(silo, b""))
        if pair is not None:
            held[silo] = pair
    return Masking(stage, deals, held, _secrets(stage.party, stage.participants, shared), length)


def _check_shared(stage: Shared, shared: frozenset[int]) -> None:
    context, participants = stage.party.context, stage.participants
    if stage.me not in shared:
        raise ProtocolError(f"silo {stage.me} has shared, but is not counted among those who did")
    strangers = shared - set(participants.adverts)
    if strangers:
        raise ProtocolError(f"silo {min(strangers)} shared without an advert", sender=min(strangers))
    refuse_too_few(context, len(shared), "shared")
    refuse_thin_neighbourhoods(participants, shared)


def _open_packet(stage: Shared, silo: int, packet: bytes) -> tuple[Deal, SharePair | None]:
    participants = stage.participants
    holders = participants.holders[silo]
    cut = max(0, len(packet) - _BOX_BYTES) if stage.me in holders else len(packet)
    public, box = packet[:cut], packet[cut:]
    deal = receive(Deal, public, stage.party.context, silo)
    if deal.adverts != participants.digest:
        raise ProtocolError(f"silo {silo} took other adverts than this silo", sender=silo)
    if tuple(holder for holder, *_ in deal.shares) != holders:
        raise ProtocolError(f"silo {silo} dealt shares to others than its neighbours", sender=silo)
    return deal, _open_box(stage, deal, public, box) if box else None


def _open_box(stage: Shared, deal: Deal, public: bytes, box: bytes) -> SharePair:
    context, silo, point = stage.party.context, deal.sender, stage.me + 1
    bound = associated_data(context.session, context.number, silo, stage.me, public)
    plain = unseal(stage.channels.box_key(silo, stage.me), box, bound, sender=silo).expose()
    pair = Share(point, Secret(plain[:SHARE_BYTES])), Share(point, Secret(plain[SHARE_BYTES:]))
    check_pair(context, deal, pair)
    return pair


def _transcript(participants: Participants, deals: Mapping[int, Deal]) -> bytes:
    """Equal on two silos only if they saw the same adverts and the same deals of the same silos."""
    ordered = (deals[silo].encode() for silo in sorted(deals))
    return digest("transcript", participants.digest, *ordered)


def _secrets(party: Party, participants: Participants, shared: frozenset[int]) -> dict[int, Secret]:
    return {
        peer: party.mask_pair.agree(participants.adverts[peer].mask_public, sender=peer)
        for peer in sorted(participants.neighbours[party.me] & shared)
    }


def _own_masks(stage: Masking, inputs: SumInputs) -> MaskKeys:
    context, me, salt = stage.party.context, stage.me, mask_salt(stage.participants, inputs)
    pairs: list[tuple[Secret, Sign]] = [(self_key(context, salt, me, stage.party.seed), 1)]
    for peer, secret in stage.secrets.items():
        pairs.append((pair_key(context, salt, me, peer, secret), pair_sign(me, peer)))
    return mask_keys(context.rules.prg, pairs, [(me,), *((me, peer) for peer in stage.secrets)])


def mask_salt(participants: Participants, inputs: SumInputs) -> bytes:
    """Salt (32 bytes) of every mask's key: whose keys they are, and which sum they hide."""
    return digest("masks", participants.digest, inputs.digest)


def pair_sign(silo: int, peer: int) -> Sign:
    """The sign of a pair's mask in `silo`'s vector: the lower number adds it."""
    return 1 if silo < peer else -1


def self_key(context: Round, salt: bytes, silo: int, seed: Secret) -> Secret:
    """The key of PRG(b_i)."""
    return mask_key(context.rules.prg, seed, "self mask", context.session, context.number, silo, salt=salt)


def pair_key(context: Round, salt: bytes, one: int, other: int, secret: Secret) -> Secret:
    """The key of PRG(s_ij), the same on both sides."""
    low, high = min(one, other), max(one, other)
    prg, session, number = context.rules.prg, context.session, context.number
    return mask_key(prg, secret, "pair mask", session, number, low, high, salt=salt)
