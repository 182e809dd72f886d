"""The silos whose adverts were taken: their keys, their neighbourhoods and the thresholds of the round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from silofl.crypto.graph import choose_degree, neighbourhoods
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.secagg.messages import Advert, receive_signed
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secagg.step1_advertise import Advertised
from silofl.errors import OtherTermsError, ProtocolError, ThresholdError


@dataclass(frozen=True)
class Participants:
    """Everything that follows from the adverts, the same on every silo that has the same ones."""

    adverts: Mapping[int, Advert]
    digest: bytes
    """SHA-256 (32 bytes) of all adverts: salt of every key and source of the graph."""
    neighbours: Mapping[int, frozenset[int]]
    threshold: int
    """How many shares open a secret."""

    @cached_property
    def holders(self) -> Mapping[int, tuple[int, ...]]:
        """The holders of each silo's shares, ascending: itself and its neighbours; it holds theirs."""
        return {silo: tuple(sorted(peers | {silo})) for silo, peers in self.neighbours.items()}


def gather_audience(stage: Advertised, adverts: Mapping[int, bytes]) -> Participants:
    """Check everybody's adverts; ProtocolError names a bad one's silo, ThresholdError: too few are there."""
    party = stage.party
    context = party.context
    if adverts.get(party.me, stage.advert) != stage.advert:
        raise ProtocolError(f"silo {party.me}'s own advert came back altered", sender=party.me)
    everyone = dict(sorted({**adverts, party.me: stage.advert}.items()))
    refuse_too_few(context, len(everyone), "advertised")
    opened = {
        silo: stage.message if silo == party.me else _check(silo, data, context)
        for silo, data in everyone.items()
    }
    _refuse_shared_keys(opened)
    whole = digest("adverts", pack_silos(tuple(everyone)), *everyone.values())
    degree = choose_degree(len(everyone), context.rules.bounds)
    graph = neighbourhoods(tuple(everyone), degree, whole)
    return Participants(opened, whole, graph, context.threshold if degree is None else degree.threshold)


def refuse_too_few(context: Round, silos: int, what: str) -> None:
    """ThresholdError unless a sum over this many silos is allowed."""
    if silos >= context.minimum:
        return
    why = f"a secure sum needs {context.minimum} silos and {silos} {what}"
    if silos == 2 and context.threshold <= 2:
        why += ": a sum over two shows each the other's update (secure.allow_two = true permits it)"
    raise ThresholdError(f"{why}; nothing was revealed")


def refuse_thin_neighbourhoods(participants: Participants, silos: frozenset[int]) -> None:
    """ThresholdError unless among `silos` enough hold shares of each of them, itself counted."""
    for silo in sorted(silos):
        left = len(silos.intersection(participants.holders[silo]))
        if left < participants.threshold:
            raise ThresholdError(
                f"{left} silos hold shares of silo {silo} and {participants.threshold} are needed; "
                "nothing was revealed"
            )


def _check(silo: int, data: bytes, context: Round) -> Advert:
    if silo not in context.members:
        raise ProtocolError(f"silo {silo} is no member of round {context.number}", sender=silo)
    advert = receive_signed(Advert, data, context, silo)
    for what, theirs, ours, kind in (
        ("roster", advert.roster, context.roster.digest, ProtocolError),
        ("configuration", advert.config, context.config_digest, ProtocolError),
        ("members, rules or matter of the secure sum", advert.terms, context.terms_digest, OtherTermsError),
    ):
        if theirs != ours:
            raise kind(f"silo {silo} has another {what} than this silo", sender=silo)
    return advert


def _refuse_shared_keys(adverts: Mapping[int, Advert]) -> None:
    owner: dict[bytes, int] = {}
    for silo, advert in adverts.items():
        for key in (advert.mask_public, advert.seal_public):
            if key in owner:
                raise ProtocolError(f"silos {owner[key]} and {silo} advertise the same key", sender=silo)
            owner[key] = silo
