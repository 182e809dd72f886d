"""The session: 16 bytes that name one run, into whose making every silo put randomness of its own.

So no silo can be led into an old session, whose messages could then be replayed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from silofl.crypto.kdf import digest, pack_silos
from silofl.errors import ProtocolError

SESSION_BYTES = 16
NONCE_BYTES = 16


def session_nonce() -> bytes:
    """This silo's contribution (16 random bytes), sent to all at the start of a run."""
    return os.urandom(NONCE_BYTES)


def session_id(nonces: Mapping[int, bytes]) -> bytes:
    """The session (16 bytes) of a run, from every silo's nonce; ProtocolError names the silo of a bad one."""
    for silo, nonce in nonces.items():
        if len(nonce) != NONCE_BYTES:
            raise ProtocolError(f"silo {silo}'s session nonce has {len(nonce)} bytes, not 16", sender=silo)
    silos = tuple(sorted(nonces))
    return digest("session", pack_silos(silos), *(nonces[silo] for silo in silos))[:SESSION_BYTES]
