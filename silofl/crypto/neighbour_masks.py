"""Masks that hide each neighbour's message inside a node's sum of all its neighbours' messages.

Neighbours j and k of node i add and take away one keystream that both know and i does not, so that only their
sum is left to i. Over that lies a keystream of each sender's own, whose key goes to i in a box once it is
settled which messages the sum is of: before, i can read no sum, and so never two that differ by one silo.

Pure functions of one party. Keys of pairs are agreed on by X25519 once for a session, and never opened.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from silofl.crypto.agreement import KeyPair
from silofl.crypto.identity import SIGNATURE_BYTES, Identity
from silofl.crypto.kdf import digest, hkdf, key_info
from silofl.crypto.masks import PRG_KEY_BYTES, MaskKeys, Prg, mask_key, mask_keys
from silofl.crypto.roster import Roster
from silofl.crypto.sealing import associated_data, seal, sealing_key, unseal
from silofl.crypto.secagg.step3_mask import pair_sign
from silofl.crypto.secret import Secret, Unpicklable
from silofl.errors import ProtocolError

PURPOSE = "neighbours' keys"


class OwnKeys(Unpicklable):
    """What one silo has before it knows the others' keys; `advert` is what it tells them."""

    __slots__ = ("_config_digest", "advert", "pair", "seed", "session")

    def __init__(self, identity: Identity, session: bytes, config_digest: bytes) -> None:
        self.pair = KeyPair.from_private_bytes(Secret(os.urandom(32)))
        self.seed = Secret(os.urandom(32))
        self.session, self._config_digest = session, config_digest
        self.advert = self.pair.public + identity.sign(self._signed(self.pair.public))
        """Its public key (32 bytes) and a signature."""

    def _signed(self, public: bytes) -> bytes:
        return digest(PURPOSE, self.session, self._config_digest, public)

    def checked(self, silo: int, advert: bytes, roster: Roster) -> bytes:
        """The public key in another's advert; ProtocolError, naming it, unless it signed that for here."""
        public, signature = advert[:-SIGNATURE_BYTES], advert[-SIGNATURE_BYTES:]
        if not roster.verify(silo, signature, self._signed(public)):
            raise ProtocolError(
                f"silo {silo}'s key for its neighbours is refused: its signature is not that of the silo in "
                "the roster, or of another session",
                sender=silo,
            )
        return public


class NeighbourKeys(Unpicklable):
    """One silo's keys with every other of a session.

    Args:
        me: its number.
        own: its keys.
        adverts: every other silo's.
        roster: by which their signatures are checked.
        prg: generator of the masks.

    Raises ProtocolError, naming the silo, for an advert that is not its own, or gives no secret.
    """

    __slots__ = ("_me", "_prg", "_secrets", "_seed", "_session")

    def __init__(self, me: int, own: OwnKeys, adverts: Mapping[int, bytes], roster: Roster, prg: Prg) -> None:
        self._me, self._session, self._seed, self._prg = me, own.session, own.seed, prg
        self._secrets = {
            silo: own.pair.agree(own.checked(silo, advert, roster), sender=silo)
            for silo, advert in adverts.items()
            if silo != me
        }

    def pair_masks(self, receiver: int, senders: Collection[int], number: int, decided: bytes) -> MaskKeys:
        """This silo's masks, with each other one of `senders`, of what it sends to `receiver`.

        They cancel in the sum over exactly these senders. `number` is of the exchange, another for each;
        `decided` is a digest (32 bytes) of what decides the messages, such as weights: where silos have
        others the masks do not cancel.
        """
        pairs = [
            (
                mask_key(
                    self._prg,
                    self._secrets[other],
                    "neighbour mask",
                    self._session,
                    number,
                    *sorted((self._me, other)),
                    receiver,
                    salt=decided,
                ),
                pair_sign(self._me, other),
            )
            for other in sorted(senders)
            if other != self._me
        ]
        return mask_keys(self._prg, pairs)

    def own_mask(self, receiver: int, number: int, decided: bytes) -> Secret:
        """The key of the mask of this silo's own over what it sends to `receiver`."""
        info = key_info(f"own neighbour mask {self._prg}", self._session, number, self._me, receiver)
        return hkdf(self._seed, PRG_KEY_BYTES[self._prg], salt=decided, info=info)

    def box(self, receiver: int, number: int, decided: bytes, sent: bytes) -> bytes:
        """That key, sealed for `receiver`; `sent` is a digest of the masked words that it belongs to."""
        key, bound = self._sealing(self._me, receiver, number, decided, sent)
        return seal(key, self.own_mask(receiver, number, decided), bound, os.urandom(12))

    def unbox(self, sender: int, number: int, decided: bytes, received: bytes, box: bytes) -> Secret:
        """The key in a sender's box; ProtocolError, naming it, unless it sent just the words `received`."""
        key, bound = self._sealing(sender, self._me, number, decided, received)
        return unseal(key, box, bound, sender=sender)

    def _sealing(
        self, sender: int, receiver: int, number: int, decided: bytes, words: bytes
    ) -> tuple[Secret, bytes]:
        secret = self._secrets[receiver if sender == self._me else sender]
        key = sealing_key(secret, self._session, number, sender, receiver, salt=decided)
        return key, associated_data(self._session, number, sender, receiver, words)
