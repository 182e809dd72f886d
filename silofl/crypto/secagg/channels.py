"""What a silo and each other one have in common by their sealing key pairs: keys of boxes and of small sums.

The sealing keys are neither shared nor opened, so what they give stays secret when a lost silo's masks are
opened. Each pair's X25519 secret is agreed on once.
"""

from __future__ import annotations

from silofl.crypto.kdf import digest
from silofl.crypto.masks import mask_key
from silofl.crypto.sealing import sealing_key
from silofl.crypto.secagg.participants import Participants
from silofl.crypto.secagg.step1_advertise import Party
from silofl.crypto.secret import Secret, Unpicklable


class Channels(Unpicklable):
    """One party's keys with every other silo of a round, made when they are first asked for."""

    __slots__ = ("_participants", "_party", "_secrets")

    def __init__(self, party: Party, participants: Participants) -> None:
        self._party, self._participants = party, participants
        self._secrets: dict[int, Secret] = {}

    def box_key(self, sender: int, receiver: int) -> Secret:
        """The key (32 bytes) of boxes from `sender` to `receiver`, one of whom is this party.

        ProtocolError, naming the other one, when its sealing key gives no secret.
        """
        context = self._party.context
        secret = self._secret(receiver if sender == self._party.me else sender)
        salt = self._participants.digest
        return sealing_key(secret, context.session, context.number, sender, receiver, salt=salt)

    def small_key(self, peer: int, decided: bytes) -> Secret:
        """The key of the masks that hide small sums between this silo and `peer`, the same on both sides.

        If both know the same of what decides these sums: `decided` is a digest (32 bytes) of it.
        """
        context, pair = self._party.context, sorted((self._party.me, peer))
        prg, salt = context.rules.prg, digest("small masks", self._participants.digest, decided)
        return mask_key(
            prg, self._secret(peer), "small sum mask", context.session, context.number, *pair, salt=salt
        )

    def _secret(self, peer: int) -> Secret:
        if peer not in self._secrets:
            public = self._participants.adverts[peer].seal_public
            self._secrets[peer] = self._party.seal_pair.agree(public, sender=peer)
        return self._secrets[peer]
