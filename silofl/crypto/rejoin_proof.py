"""Proof that a process which was started again is its silo: it signs what survivors have just asked.

Every survivor puts randomness of its own into the challenge, so that an old answer fits none.
"""

from __future__ import annotations

from collections.abc import Mapping

from silofl.crypto.identity import Identity
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.roster import Roster
from silofl.crypto.session_id import session_id

_SIGNED = b"silofl/1 signed claim\0"


def challenge(session: bytes, silos: tuple[int, ...], nonces: Mapping[int, bytes]) -> bytes:
    """What `silos` have to sign to rejoin the run `session`, whose 16 bytes come first; 48 bytes.

    `nonces` has one of every survivor. ProtocolError names the silo of a bad one.
    """
    survivors = tuple(sorted(nonces))
    fields = (session, session_id(nonces), pack_silos(survivors), pack_silos(silos))
    return session + digest("rejoin challenge", *fields)


def prove(identity: Identity, asked: bytes, silo: int, statement: bytes) -> bytes:
    """The signature (64 bytes) of `silo` on the challenge `asked`, and on all that it states of itself."""
    return identity.sign(_message(asked, silo, statement))


def proves(roster: Roster, asked: bytes, silo: int, statement: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of the institution which the roster has as `silo`."""
    return silo < len(roster) and roster.verify(silo, signature, _message(asked, silo, statement))


def _message(asked: bytes, silo: int, statement: bytes) -> bytes:
    return _SIGNED + digest("rejoin", asked, pack_silos((silo,)), statement)
