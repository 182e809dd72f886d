"""Step 5, agree: one set of survivors, voted for once (Bonawitz et al. 2017, round 3, ConsistencyCheck)."""

from __future__ import annotations

from collections.abc import Collection

from silofl.crypto.secagg.messages import Vote, sign
from silofl.crypto.secagg.participants import refuse_too_few
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step3_mask import Masking
from silofl.errors import ProtocolError


class Agreed(Stage):
    """After step 5: this silo has named the only survivors over whom it will open a sum in this round."""

    def __init__(self, masking: Masking, vote: Vote) -> None:
        super().__init__(masking.me, masking.party.context.number)
        self.masking = masking
        self.vote = vote


def agree(stage: Masking, survivors: Collection[int], heard: bytes) -> tuple[Agreed, bytes]:
    """Vote for the silos whose masked vectors are in the sum, whole, on every rank; the vote goes to all.

    It also states what this silo masked (transcript, ring and length), what decides the sum, and in `heard` a
    digest (32 bytes) of the small sums that led there; `reveal` compares them. A silo votes for one set in a
    round: asked again for the same it gives the same vote, asked for another it refuses with ProtocolError,
    because two sets would open both secrets of the silos in only one of them. ThresholdError when too few
    silos survive; RuntimeError before `bind`.
    """
    chosen = frozenset(survivors)
    return stage.once("agree", (chosen, heard), lambda: _agree(stage, chosen, heard))


def _agree(stage: Masking, survivors: frozenset[int], heard: bytes) -> tuple[Agreed, bytes]:
    if stage.inputs is None:
        raise RuntimeError("a sum is bound to what decides it before anybody votes")
    context = stage.party.context
    strangers = survivors - set(stage.deals)
    if strangers:
        silo = min(strangers)
        raise ProtocolError(f"silo {silo} cannot survive a round in which it shared nothing", sender=silo)
    refuse_too_few(context, len(survivors), "are left")
    bits, length = context.rules.bits, stage.length
    masked = stage.transcript, bits, length
    vote = Vote(context.session, context.number, stage.me, *masked, survivors, stage.inputs, heard)
    return Agreed(stage, vote), sign(vote, stage.party.identity)
