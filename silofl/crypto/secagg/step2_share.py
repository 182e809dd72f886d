"""Step 2, share: both secrets in shares, sealed to their holders (Bonawitz et al. 2017, round 1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from silofl.crypto import shamir
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.sealing import NONCE_BYTES, associated_data, seal
from silofl.crypto.secagg.channels import Channels
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE, SHARE_DIGEST_BYTES, Deal
from silofl.crypto.secagg.participants import Participants, gather_audience
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step1_advertise import Advertised, Party
from silofl.crypto.secret import Secret
from silofl.crypto.shamir import Share
from silofl.errors import ProtocolError

SharePair = tuple[Share, Share]
"""One holder's shares of a silo's seed and of its key."""


class Shared(Stage):
    """After step 2: this silo's shares are on their way."""

    def __init__(
        self, party: Party, participants: Participants, channels: Channels, deal: Deal, own: SharePair
    ) -> None:
        super().__init__(party.me, party.context.number)
        self.party = party
        self.participants = participants
        self.channels = channels
        self.deal = deal
        self.own = own


def share(stage: Advertised, adverts: Mapping[int, bytes]) -> tuple[Shared, dict[int, bytes]]:
    """Take everybody's adverts; give the packet for each other silo that advertised.

    `adverts` must be the same on every silo. ProtocolError names the silo of a bad advert; ThresholdError
    when too few silos advertised.
    """
    request = ("secagg", dict(adverts) | {stage.me: stage.advert})
    return stage.once("share", request, lambda: _share(stage.party, gather_audience(stage, adverts)))


def _share(party: Party, participants: Participants) -> tuple[Shared, dict[int, bytes]]:
    holders = participants.holders[party.me]
    points = [silo + 1 for silo in holders]
    seeds, keys = (
        shamir.split(secret, participants.threshold, points, entropy=party.entropy)
        for secret in (party.seed, party.mask_pair.private)
    )
    pairs = {silo: (seeds[silo + 1], keys[silo + 1]) for silo in holders}
    deal = _deal(party, participants, pairs)
    public, channels = deal.encode(), Channels(party, participants)
    others = [silo for silo in participants.adverts if silo != party.me]
    packets = {silo: public + _box(party, channels, public, silo, pairs.get(silo)) for silo in others}
    return Shared(party, participants, channels, deal, pairs[party.me]), packets


def _deal(party: Party, participants: Participants, pairs: Mapping[int, SharePair]) -> Deal:
    context, me = party.context, party.me
    rows = tuple(
        (
            holder,
            share_digest(context, me, SEED_SHARE, pair[0]),
            share_digest(context, me, KEY_SHARE, pair[1]),
        )
        for holder, pair in pairs.items()
    )
    commitment = seed_commitment(context, me, party.seed)
    return Deal(context.session, context.number, me, participants.digest, commitment, rows)


def _box(party: Party, channels: Channels, public: bytes, receiver: int, pair: SharePair | None) -> bytes:
    if pair is None:
        return b""
    key = channels.box_key(party.me, receiver)
    plain = Secret(pair[0].value.expose() + pair[1].value.expose())
    context = party.context
    bound = associated_data(context.session, context.number, party.me, receiver, public)
    return seal(key, plain, bound, party.entropy(NONCE_BYTES))


def share_digest(context: Round, dealer: int, kind: int, part: Share) -> bytes:
    """The commitment (16 bytes) to one share, by which a wrong one is found and its silo named.

    It hides the share because any one share is uniform in a field of 521 bits.
    """
    place = struct.pack(">QIIB", context.number, dealer, part.x, kind)
    return digest("share", context.session, place, part.value.expose())[:SHARE_DIGEST_BYTES]


def seed_commitment(context: Round, dealer: int, seed: Secret) -> bytes:
    """The commitment (32 bytes) to a self-mask seed; it hides a seed that is uniform in 256 bits."""
    place = struct.pack(">Q", context.number) + pack_silos((dealer,))
    return digest("seed", context.session, place, seed.expose())


def check_pair(context: Round, deal: Deal, pair: SharePair) -> None:
    """ProtocolError, naming the dealer, unless the shares are those that it committed to."""
    seed, key = (share_digest(context, deal.sender, kind, pair[kind - 1]) for kind in (SEED_SHARE, KEY_SHARE))
    if deal.digests()[pair[0].x - 1] != (seed, key):
        raise ProtocolError(
            f"silo {deal.sender} sealed other shares than it committed to", sender=deal.sender
        )
