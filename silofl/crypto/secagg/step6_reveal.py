"""Step 6, reveal: the seeds' shares of survivors, the keys' shares of the lost (Bonawitz 2017, round 4)."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.crypto.secagg.inputs import refuse_other_inputs
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE, Reveal, Vote, receive_signed
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secagg.step5_agree import Agreed
from silofl.errors import ProtocolError, ThresholdError


class Revealed(Stage):
    """After step 6: this silo has told its shares."""

    def __init__(self, agreed: Agreed, reveal: Reveal) -> None:
        super().__init__(agreed.me, agreed.vote.number)
        self.masking = agreed.masking
        self.survivors = agreed.vote.survivors
        self.inputs = agreed.vote.inputs
        self.reveal = reveal


def reveal(stage: Agreed, votes: Mapping[int, bytes]) -> tuple[Revealed, bytes]:
    """Take the votes that arrived; give the shares (for everybody) that open the sum over the survivors.

    Per dealer one share: of its seed if it survived, else of its key; never both. ProtocolError names a silo
    that voted for other survivors, masked something else, or whose vote is bad; ThresholdError when fewer
    than the threshold voted: then nothing is revealed. A survivor may have died since: its vote is missing.
    """
    voters = {stage.me}
    for silo, data in votes.items():
        if silo != stage.me:
            _check_vote(stage, silo, data)
            voters.add(silo)
    context = stage.masking.party.context
    if len(voters) < context.threshold:
        raise ThresholdError(
            f"{len(voters)} silos voted in round {context.number} and {context.threshold} must; "
            "nothing was revealed"
        )
    message = _reveal(stage)
    return Revealed(stage, message), message.encode()


def _check_vote(stage: Agreed, silo: int, data: bytes) -> None:
    if silo not in stage.masking.deals:
        raise ProtocolError(f"silo {silo} votes without having shared", sender=silo)
    vote = receive_signed(Vote, data, stage.masking.party.context, silo)
    if vote.survivors != stage.vote.survivors:
        theirs, ours = sorted(vote.survivors), sorted(stage.vote.survivors)
        raise ProtocolError(
            f"silo {silo} asks to open the sum over silos {theirs} where this silo agreed on {ours}; "
            "both would open both secrets of a silo",
            sender=silo,
        )
    if vote.transcript != stage.vote.transcript:
        raise ProtocolError(
            f"silo {silo} masked over other adverts, shares or silos than this silo saw", sender=silo
        )
    if (vote.bits, vote.length) != (stage.vote.bits, stage.vote.length):
        raise ProtocolError(
            f"silo {silo} masked {vote.length} words of {vote.bits} bits, "
            f"this silo {stage.vote.length} of {stage.vote.bits}",
            sender=silo,
        )
    refuse_other_inputs(silo, stage.vote.inputs, stage.vote.heard, vote.inputs, vote.heard)


def _reveal(stage: Agreed) -> Reveal:
    vote, held = stage.vote, stage.masking.held
    shares = tuple(
        (dealer, kind, held[dealer][kind - 1].value)
        for dealer in sorted(held)
        for kind in [called_for(dealer, vote.survivors)]
    )
    return Reveal(vote.session, vote.number, stage.me, vote.transcript, shares)


def called_for(dealer: int, survivors: frozenset[int]) -> int:
    """The one kind of share that may be told of this silo."""
    return SEED_SHARE if dealer in survivors else KEY_SHARE
