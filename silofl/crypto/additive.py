"""The protocol `additive`: every silo's vector in shares for a committee, all but one of them mere seeds.

The committee's m members each own one slice of the vector. Silo i gives every member j a seed r_ij, and the
owner k of a slice the residual x_i - sum over members j != k of PRG(r_ij), on that slice. Member j gives
owner k the sum over all silos i of PRG(r_ij) on k's slice; the owner adds residuals and sums up. Any m - 1
members learn nothing of a silo but the sum: one seed, or the residual, is missing. Nothing recovers a
dropout: every silo and every member must finish.

Steps: `secagg.advertise`, `deal`, `receive_seeds`, `state`, `check_statements`; only then the vectors move,
outside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from silofl.crypto.masks import MaskKeys, mask_key, mask_keys
from silofl.crypto.sealing import NONCE_BYTES, OVERHEAD, associated_data, seal, unseal
from silofl.crypto.secagg.channels import Channels
from silofl.crypto.secagg.inputs import SumInputs, refuse_other_inputs
from silofl.crypto.secagg.messages import SeedDeal, Statement, receive, receive_signed, sign
from silofl.crypto.secagg.participants import Participants, gather_audience
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step1_advertise import Advertised, Party
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError, ProtocolError, ThresholdError

SEED_BYTES = 32


class Dealt(Stage):
    """After `deal`: this silo's seeds are on their way."""

    def __init__(
        self,
        party: Party,
        participants: Participants,
        channels: Channels,
        committee: tuple[int, ...],
        seeds: Mapping[int, Secret],
    ) -> None:
        super().__init__(party.me, party.context.number)
        self.party = party
        self.participants = participants
        self.channels = channels
        self.committee = committee
        self._seeds = seeds

    def residual_keys(self, owner: int) -> MaskKeys:
        """What to add to this silo's slice for `owner`, a member, before it is sent there (m - 1 keys)."""
        _check_member(owner, self.committee)
        party, prg = self.party, self.party.context.rules.prg
        others = [member for member in self.committee if member != owner]
        keys = (_key(party, self.participants, party.me, member, self._seeds[member]) for member in others)
        return mask_keys(prg, [(key, -1) for key in keys])

    @property
    def own_seed(self) -> Secret | None:
        """The seed that this silo deals to itself; None when it is no member."""
        return self._seeds.get(self.me)


class Member(Stage):
    """A member of the committee that has everybody's seeds."""

    def __init__(self, dealt: Dealt, seeds: Mapping[int, Secret]) -> None:
        super().__init__(dealt.me, dealt.party.context.number)
        self._dealt = dealt
        self._seeds = seeds

    def total_keys(self, owner: int) -> MaskKeys:
        """What to add up (from zeros) on `owner`'s slice and send there: one key of every silo, n keys."""
        _check_member(owner, self._dealt.committee)
        if owner == self.me:
            raise ProtocolError(f"member {owner} adds residuals to its own slice, not seeds")
        party, participants = self._dealt.party, self._dealt.participants
        keys = (
            _key(party, participants, dealer, self.me, seed) for dealer, seed in sorted(self._seeds.items())
        )
        return mask_keys(party.context.rules.prg, [(key, 1) for key in keys])


def deal(
    stage: Advertised, adverts: Mapping[int, bytes], committee: Collection[int]
) -> tuple[Dealt, dict[int, bytes]]:
    """Take everybody's adverts; give the packet for each other member of the committee.

    ConfigError unless the committee is two or more of the round's members; ThresholdError when an advert is
    missing; ProtocolError names the silo of a bad one.
    """
    members = tuple(sorted(set(committee)))
    if len(members) < 2 or not set(members) <= set(stage.party.context.members):
        raise ConfigError(f"a committee is two or more of the round's silos, not {list(members)}")
    request = ("additive", dict(adverts) | {stage.me: stage.advert}, members)
    return stage.once("deal", request, lambda: _deal(stage, adverts, members))


def receive_seeds(stage: Dealt, packets: Mapping[int, bytes]) -> Member:
    """As a member: take all silos' packets. ProtocolError names a bad one's, ThresholdError a missing one."""
    _check_member(stage.me, stage.committee)
    if stage.own_seed is None:
        raise ProtocolError(f"silo {stage.me} has no seed of its own")
    seeds = {stage.me: stage.own_seed}
    for silo in stage.party.context.members:
        if silo != stage.me:
            if not packets.get(silo):
                raise _missing(silo)
            seeds[silo] = _open(stage, silo, packets[silo])
    return Member(stage, seeds)


def state(stage: Dealt, inputs: SumInputs, heard: bytes) -> bytes:
    """What decides the sum, signed, for all; `heard` is a digest (32 bytes) of the small sums before."""
    context, party = stage.party.context, stage.party
    statement = Statement(context.session, context.number, stage.me, stage.participants.digest, inputs, heard)
    return sign(statement, party.identity)


def check_statements(stage: Dealt, statements: Mapping[int, bytes], inputs: SumInputs, heard: bytes) -> None:
    """Take everybody's `state`, before a word of the sum is sent.

    ProtocolError names a silo that was given something else, or whose statement is bad; ThresholdError when
    one is missing.
    """
    for silo in stage.party.context.members:
        if silo == stage.me:
            continue
        if not statements.get(silo):
            raise _missing(silo)
        told = receive_signed(Statement, statements[silo], stage.party.context, silo)
        if told.adverts != stage.participants.digest:
            raise ProtocolError(f"silo {silo} took other adverts than this silo", sender=silo)
        refuse_other_inputs(silo, inputs, heard, told.inputs, told.heard)


def _deal(
    stage: Advertised, adverts: Mapping[int, bytes], committee: tuple[int, ...]
) -> tuple[Dealt, dict[int, bytes]]:
    party = stage.party
    participants = gather_audience(stage, adverts)
    for silo in party.context.members:
        if silo not in participants.adverts:
            raise _missing(silo)
    seeds = {member: Secret(party.entropy(SEED_BYTES)) for member in committee}
    message = SeedDeal(
        party.context.session, party.context.number, party.me, participants.digest, frozenset(committee)
    )
    public, channels = message.encode(), Channels(party, participants)
    packets = {
        member: public + _box(party, channels, public, member, seed)
        for member, seed in seeds.items()
        if member != party.me
    }
    return Dealt(party, participants, channels, committee, seeds), packets


def _box(party: Party, channels: Channels, public: bytes, member: int, seed: Secret) -> bytes:
    bound = associated_data(party.context.session, party.context.number, party.me, member, public)
    return seal(channels.box_key(party.me, member), seed, bound, party.entropy(NONCE_BYTES))


def _open(stage: Dealt, silo: int, packet: bytes) -> Secret:
    party, participants = stage.party, stage.participants
    split = max(0, len(packet) - SEED_BYTES - OVERHEAD)
    public, box = packet[:split], packet[split:]
    message = receive(SeedDeal, public, party.context, silo)
    if message.adverts != participants.digest or message.committee != frozenset(stage.committee):
        raise ProtocolError(f"silo {silo} deals over other adverts or to another committee", sender=silo)
    bound = associated_data(party.context.session, party.context.number, silo, party.me, public)
    return unseal(stage.channels.box_key(silo, party.me), box, bound, sender=silo)


def _key(party: Party, participants: Participants, dealer: int, member: int, seed: Secret) -> Secret:
    context = party.context
    purpose, salt = "additive share", participants.digest
    return mask_key(
        context.rules.prg, seed, purpose, context.session, context.number, dealer, member, salt=salt
    )


def _check_member(silo: int, committee: tuple[int, ...]) -> None:
    if silo not in committee:
        raise ProtocolError(f"silo {silo} is no member of the committee {list(committee)}")


def _missing(silo: int) -> ThresholdError:
    return ThresholdError(f"silo {silo} is missing, and the additive protocol recovers from no dropout")
