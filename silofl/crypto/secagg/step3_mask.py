"""Step 3, mask: which keystreams hide this silo's vector (Bonawitz et al. 2017, round 2).

y_i = x_i + PRG(b_i) + sum over neighbours j > i of PRG(s_ij) - sum over neighbours j < i of PRG(s_ij).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from silofl.crypto.kdf import digest
from silofl.crypto.masks import MaskKeys, Sign, mask_key, mask_keys
from silofl.crypto.sealing import OVERHEAD, associated_data, unseal
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
    """After step 3: this silo knows its masks and holds its neighbours' shares."""

    def __init__(
        self, shared: Shared, deals: Mapping[int, Deal], held: Mapping[int, SharePair], length: int
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
        self.transcript = _transcript(shared.participants, deals)
        self.length = length
        """Ring words that are masked."""


def mask(
    stage: Shared, packets: Mapping[int, bytes], shared: Collection[int], length: int
) -> tuple[Masking, MaskKeys]:
    """Take the packets of all silos that shared; give this silo's masks.

    `shared` is the set of silos whose packets reached all others, the same on every silo and with this one
    in it; packets of others are left out of the round. `length` is how many ring words will be masked. The
    masks are for one vector in this round: masking two different ones by them would show their difference.

    ProtocolError names the silo of a bad or missing packet; ThresholdError when too few silos are left.
    """
    request = (frozenset(shared), length)
    return stage.once("mask", request, lambda: _mask(stage, packets, frozenset(shared), length))


def _mask(
    stage: Shared, packets: Mapping[int, bytes], shared: frozenset[int], length: int
) -> tuple[Masking, MaskKeys]:
    _check_shared(stage, shared)
    deals, held = {stage.me: stage.deal}, {stage.me: stage.own}
    for silo in sorted(shared - {stage.me}):
        deals[silo], pair = _open_packet(stage, silo, packets.get(silo, b""))
        if pair is not None:
            held[silo] = pair
    return Masking(stage, deals, held, length), _own_masks(stage.party, stage.participants, shared)


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


def _own_masks(party: Party, participants: Participants, shared: frozenset[int]) -> MaskKeys:
    context, me = party.context, party.me
    pairs: list[tuple[Secret, Sign]] = [(self_key(context, participants, me, party.seed), 1)]
    for peer in sorted(participants.neighbours[me] & shared):
        secret = party.mask_pair.agree(participants.adverts[peer].mask_public, sender=peer)
        pairs.append((pair_key(context, participants, me, peer, secret), pair_sign(me, peer)))
    return mask_keys(context.rules.prg, pairs)


def pair_sign(silo: int, peer: int) -> Sign:
    """The sign of a pair's mask in `silo`'s vector: the lower number adds it."""
    return 1 if silo < peer else -1


def self_key(context: Round, participants: Participants, silo: int, seed: Secret) -> Secret:
    """The key of PRG(b_i)."""
    return mask_key(
        context.rules.prg, seed, "self mask", context.session, context.number, silo, salt=participants.digest
    )


def pair_key(context: Round, participants: Participants, one: int, other: int, secret: Secret) -> Secret:
    """The key of PRG(s_ij), the same on both sides."""
    low, high = min(one, other), max(one, other)
    return mask_key(
        context.rules.prg,
        secret,
        "pair mask",
        context.session,
        context.number,
        low,
        high,
        salt=participants.digest,
    )
