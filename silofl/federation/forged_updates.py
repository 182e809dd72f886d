"""[attack] in a run: forged updates in the place of learnt ones.

Attackers forge after their update was found to be finite, as a silo would that lies to the others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from silofl.aggregation.magnitudes import Magnitudes, measure
from silofl.attacks.base import Insight, LiveAttack
from silofl.federation.federation import Federation
from silofl.federation.local_work import Fitted
from silofl.topologies.base import BUFFERS
from silofl.types import Vector


def with_forged_updates(
    federation: Federation, number: int, fitted: Fitted, magnitudes: Magnitudes
) -> tuple[Fitted, Magnitudes]:
    """What this silo brings to a round's sum, forged where it attacks, and how large that is; collective.

    Attackers tell each other what they have learnt, and with `omniscient` all others tell them; nothing is
    sent where there is no attack, or where it needs no other silo's update. Buffers are as they were learnt.
    """
    context, attack = federation.context, federation.context.config.attack.attack
    if attack is None:
        return fitted, magnitudes
    silo, absent = context.group.silo_id, federation.absent(number)
    here = [one for one in attack.silos if one not in absent]
    sent = fitted.contribution.vectors
    forged: dict[str, Vector] = {}
    for at, name in enumerate(one for one in sent if one != BUFFERS):
        known = _known(federation, attack, sent[name], absent) if attack.colludes else {silo: sent[name]}
        if silo in here and known:
            rng = np.random.default_rng([context.config.run.seed, number, silo, at])
            forged[name] = attack.forge(Insight(sent[name], known, context.silos, len(attack.silos), rng))
    if not forged:
        return fitted, magnitudes
    contribution = replace(fitted.contribution, vectors={**sent, **forged})
    return replace(fitted, contribution=contribution), measure(contribution, federation.aggregator.spec)


def _known(
    federation: Federation, attack: LiveAttack, own: Vector, absent: tuple[int, ...]
) -> dict[int, Vector]:
    """The updates (d,) that attackers know, by silo; collective."""
    group = federation.group
    attacks = group.silo_id in attack.silos
    tells = attack.known(group.silo_id) and group.silo_id not in absent
    told = own.tobytes() if tells else b""
    members, parts = group.step(lambda: (group.members, group.comm.allgather_bytes(told)))
    every = {silo: np.frombuffer(part, own.dtype) for silo, part in zip(members, parts, strict=True) if part}
    return every if attacks else {}
