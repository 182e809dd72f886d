"""Step 1, advertise: fresh keys, their public halves signed to everybody (Bonawitz et al. 2017, round 0)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from silofl.crypto.agreement import KEY_BYTES, KeyPair
from silofl.crypto.identity import Identity
from silofl.crypto.secagg.messages import Advert, sign
from silofl.crypto.secagg.rules import Round
from silofl.crypto.secagg.stages import Stage
from silofl.crypto.secret import Secret, Unpicklable
from silofl.errors import ConfigError


@dataclass(frozen=True, slots=True, repr=False)
class Party(Unpicklable):
    """One silo in one round: its identity and the secrets it made for it.

    Two key pairs, as in Bonawitz et al.: the one behind the pair masks may be opened when the silo is lost,
    the one that seals shares never is. One pair for both would open, with a lost silo's masks, the shares
    of everybody that were sealed to it.
    """

    context: Round
    me: int
    identity: Identity
    mask_pair: KeyPair
    seal_pair: KeyPair
    seed: Secret
    entropy: Callable[[int], bytes]

    def __repr__(self) -> str:
        return f"Party(silo {self.me}, round {self.context.number})"


class Advertised(Stage):
    """After step 1: the silo's public keys are on their way."""

    def __init__(self, party: Party, message: Advert, advert: bytes) -> None:
        super().__init__(party.me, party.context.number)
        self.party = party
        self.message = message
        self.advert = advert
        """The message as it travels."""


def advertise(
    context: Round, me: int, identity: Identity, *, entropy: Callable[[int], bytes] = os.urandom
) -> tuple[Advertised, bytes]:
    """Begin a round as silo `me`. The advert (257 bytes) goes to every member.

    ConfigError when `me` is no member or the roster has another key for it. `entropy` is for known-answer
    tests only: it must never give the same bytes in two rounds.
    """
    if me not in context.members:
        raise ConfigError(f"silo {me} is no member of round {context.number}")
    if context.roster.institutions[me].key != identity.public:
        raise ConfigError(f"the roster has another public key for silo {me} than this identity's")
    mask_pair, seal_pair = (KeyPair(Secret(entropy(KEY_BYTES))) for _ in range(2))
    party = Party(context, me, identity, mask_pair, seal_pair, Secret(entropy(KEY_BYTES)), entropy)
    message = Advert(
        context.session,
        context.number,
        me,
        context.roster.digest,
        context.config_digest,
        context.terms_digest,
        mask_pair.public,
        seal_pair.public,
    )
    advert = sign(message, identity)
    return Advertised(party, message, advert), advert
