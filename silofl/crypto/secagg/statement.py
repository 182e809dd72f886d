"""What decides a sum, signed where there is no vote: names the silo that was given something else."""

from __future__ import annotations

from collections.abc import Mapping

from silofl.crypto.secagg.inputs import NOTHING, SumInputs, refuse_other_inputs
from silofl.crypto.secagg.messages import Statement, receive_signed, sign
from silofl.crypto.secagg.step3_mask import Masking
from silofl.errors import ProtocolError


def state_inputs(stage: Masking, inputs: SumInputs) -> bytes:
    """This silo's statement, for everybody."""
    context, adverts = stage.party.context, stage.participants.digest
    statement = Statement(context.session, context.number, stage.me, adverts, inputs, NOTHING)
    return sign(statement, stage.party.identity)


def check_inputs(stage: Masking, inputs: SumInputs, statements: Mapping[int, bytes]) -> None:
    """ProtocolError names a silo that was given something else, or whose statement is bad."""
    for silo, data in statements.items():
        if silo != stage.me:
            told = receive_signed(Statement, data, stage.party.context, silo)
            if told.adverts != stage.participants.digest:
                raise ProtocolError(f"silo {silo} took other adverts than this silo", sender=silo)
            refuse_other_inputs(silo, inputs, NOTHING, told.inputs, told.heard)
