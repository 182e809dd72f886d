"""Step 5, agree: one set of survivors, voted for once (Bonawitz et al. 2017, round 3, ConsistencyCheck)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from silofl.crypto.secagg.audience import refuse_too_few
from silofl.crypto.secagg.messages import Pledge, Vote, post, receive
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step3_mask import Masking
from silofl.errors import ProtocolError


class Agreed(Stage):
    """After step 5: this silo has named the only survivors over whom it will open a sum in this round."""

    def __init__(self, masking: Masking, vote: Vote) -> None:
        super().__init__(masking.me, masking.party.context.number)
        self.masking = masking
        self.vote = vote


def agree(stage: Masking, survivors: Collection[int], pledges: Mapping[int, bytes]) -> tuple[Agreed, bytes]:
    """Vote for the silos whose masked vectors are in the sum, whole, on every rank.

    `pledges` must have those of all survivors. A silo votes for one set in a round: asked again for the same
    it gives the same vote, asked for another it refuses with ProtocolError, because two sets would open both
    secrets of the silos in only one of them. ProtocolError also names the silo of a bad pledge;
    ThresholdError when too few silos survive.
    """
    chosen = frozenset(survivors)
    return stage.once("agree", chosen, lambda: _agree(stage, chosen, pledges))


def _agree(stage: Masking, survivors: frozenset[int], pledges: Mapping[int, bytes]) -> tuple[Agreed, bytes]:
    context = stage.party.context
    strangers = survivors - set(stage.deals)
    if strangers:
        silo = min(strangers)
        raise ProtocolError(f"silo {silo} cannot survive a round in which it shared nothing", sender=silo)
    refuse_too_few(context, len(survivors), "are left")
    for silo in sorted(survivors - {stage.me}):
        _check_pledge(stage, silo, pledges.get(silo, b""))
    vote = Vote(context.session, context.number, stage.me, stage.pledge.transcript, survivors)
    return Agreed(stage, vote), post(vote, stage.party.identity)


def _check_pledge(stage: Masking, silo: int, data: bytes) -> None:
    pledge, own = receive(Pledge, data, stage.party.context, silo), stage.pledge
    if pledge.transcript != own.transcript:
        raise ProtocolError(
            f"silo {silo} masks over other adverts, shares or silos than this silo saw", sender=silo
        )
    if (pledge.bits, pledge.length) != (own.bits, own.length):
        raise ProtocolError(
            f"silo {silo} masks {pledge.length} words of {pledge.bits} bits, "
            f"this silo {own.length} of {own.bits}",
            sender=silo,
        )
