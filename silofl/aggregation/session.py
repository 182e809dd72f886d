"""The secure session of a run: who takes part, by which rules, and the rounds' numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from silofl.comm.protocol import Communicator
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import Round, Rules
from silofl.crypto.session import session_id, session_nonce
from silofl.crypto.wire import Inbox


@dataclass
class SecureSession:
    """One rank's part of a session. Rounds are numbered once each; no number is used twice."""

    comm: Communicator
    identity: Identity
    roster: Roster
    identifier: bytes
    config_digest: bytes
    rules: Rules
    _number: int = field(default=0, repr=False)

    def next_round(self) -> Round:
        """The next round of all ranks; the same on every rank if all call it equally often."""
        self._number += 1
        members = tuple(range(self.comm.size))
        return Round(self.identifier, self._number, self.roster, self.config_digest, members, self.rules)


def open_session(
    comm: Communicator,
    rules: Rules,
    config_digest: bytes,
    *,
    identity: Identity | None = None,
    roster: Roster | None = None,
) -> SecureSession:
    """Meet, with a nonce of everybody's; collective.

    Without an identity every rank makes one for this run only: that protects the sum from curious ranks and
    from readers of the wire, not from somebody who can change what is on it: `docs/threat-model.md`.
    """
    own = identity or Identity.generate()
    known = roster or Roster.ephemeral(comm.allgather_bytes(own.public))
    nonces = Inbox.of(comm.allgather_bytes(session_nonce()))
    return SecureSession(comm, own, known, session_id(nonces), config_digest, rules)
