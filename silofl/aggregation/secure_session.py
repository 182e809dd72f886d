"""The secure session of a run: who takes part, by which rules, and the rounds' numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from silofl.comm.elastic_group import ElasticGroup
from silofl.crypto.identity import Identity
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import Round, Rules
from silofl.crypto.session_id import session_id, session_nonce
from silofl.crypto.wire import MOST_SILOS, Inbox


@dataclass
class SecureSession:
    """One rank's part of a session, from its opening until who takes part changes.

    Rounds are numbered once each; no number is used twice, however often ranks are lost.
    """

    group: ElasticGroup
    identity: Identity
    roster: Roster
    identifier: bytes
    config_digest: bytes
    rules: Rules
    members: tuple[int, ...]
    _taken: int = field(default=0, repr=False)

    def take_number(self) -> int:
        """A number for a round; the same on every rank if all take equally many."""
        self._taken += 1
        return self._taken

    def round(self, number: int) -> Round:
        """The round of this number among the ranks that are left; with fewer it is another round."""
        left = self.group.members
        attempt = number * MOST_SILOS + len(self.members) - len(left)
        return Round(self.identifier, attempt, self.roster, self.config_digest, left, self.rules)


def open_session(
    group: ElasticGroup,
    rules: Rules,
    config_digest: bytes,
    *,
    identity: Identity | None = None,
    roster: Roster | None = None,
) -> SecureSession:
    """Meet, with a nonce of everybody's; collective.

    Without an identity every rank makes one for this session only: that protects the sum from curious ranks
    and from readers of the wire, not from somebody who can change what is on it: `docs/threat-model.md`.
    """
    comm = group.comm
    own = identity or Identity.generate()
    known = roster or _ephemeral(group, comm.allgather_bytes(own.public))
    nonces = Inbox.of(comm.allgather_bytes(session_nonce()), group.members)
    return SecureSession(group, own, known, session_id(nonces), config_digest, rules, group.members)


def _ephemeral(group: ElasticGroup, keys: list[bytes]) -> Roster:
    """The roster of these keys; in the place of silos that are not there are hashes, whose key nobody has."""
    own = dict(zip(group.members, keys, strict=True))
    absent = {
        number: digest("absent silo", pack_silos((number,)), *keys)
        for number in range(group.members[-1])
        if number not in own
    }
    return Roster.ephemeral([(own | absent)[number] for number in range(group.members[-1] + 1)])
