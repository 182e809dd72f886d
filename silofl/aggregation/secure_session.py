"""The secure session of a run: its silos, their rules, and the rounds' numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.protocol import Communicator
from silofl.config import SecureConfig
from silofl.crypto.framing import MOST_SILOS, Inbox
from silofl.crypto.identity import Identity
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.masks import Prg
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import Round, Rules
from silofl.crypto.session_id import session_id, session_nonce
from silofl.crypto.signer import Signer, configured_signer
from silofl.crypto.threshold import threshold_of
from silofl_kernels.cpu import features


@dataclass
class SecureSession:
    """One rank's part of a session, from its opening until the silos change.

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

    def round(self, number: int, matter: bytes = b"") -> Round:
        """The round of this number among the ranks that are left; with fewer it is another round."""
        left = self.group.members
        attempt = number * MOST_SILOS + len(self.members) - len(left)
        return Round(self.identifier, attempt, self.roster, self.config_digest, left, self.rules, matter)


def open_session(
    group: ElasticGroup,
    rules: Rules,
    config_digest: bytes,
    *,
    identity: Identity | None = None,
    roster: Roster | None = None,
) -> SecureSession:
    """Meet, with a nonce of every silo's; collective.

    Without an identity every rank makes one for this session only: that protects the sum from curious ranks
    and from readers of the wire, not from a party that can change what is on it: `docs/threat-model.md`.
    """
    comm = group.comm
    own = identity or Identity.generate()
    known = roster or _ephemeral(group, comm.allgather_bytes(own.public))
    nonces = Inbox.of(comm.allgather_bytes(session_nonce()), group.members)
    return SecureSession(group, own, known, session_id(nonces), config_digest, rules, group.members)


def _ephemeral(group: ElasticGroup, keys: list[bytes]) -> Roster:
    """The roster of these keys; absent silos have hashes, to which there is no key."""
    own = dict(zip(group.members, keys, strict=True))
    absent = {
        number: digest("absent silo", pack_silos((number,)), *keys)
        for number in range(group.members[-1])
        if number not in own
    }
    return Roster.ephemeral([(own | absent)[number] for number in range(group.members[-1] + 1)])


def rules_for(comm: Communicator, config: SecureConfig, silos: int, helpers: int = 0) -> Rules:
    """The rules that [secure] names; `prg = "auto"` is settled between the ranks. Collective.

    The threshold is that of the run's `silos`, and falls with none that are lost: as few could open a secret.
    `helpers`, ranks without data, have shares of secrets, too: with all of them as many silos open one.
    """
    prg = common_prg(comm) if config.prg == "auto" else config.prg
    return Rules(prg, config.bits, threshold_of(config, silos) + helpers, config.allow_two)


def common_prg(comm: Communicator) -> Prg:
    """AES-128 where every rank's processor has AES units, ChaCha20 otherwise; collective."""
    everywhere = comm.allgather_bytes(own_prg().encode())
    return "aes-128-ctr" if set(everywhere) == {b"aes-128-ctr"} else "chacha20"


def own_prg() -> Prg:
    """What this rank's processor makes masks fastest with."""
    return "chacha20" if features.path("aes") == "portable" else "aes-128-ctr"


def configured_session(
    group: ElasticGroup,
    secure: SecureConfig,
    config_digest: bytes,
    silos: int,
    signer: Signer | None = None,
    *,
    helpers: int = 0,
) -> SecureSession:
    """The session that [secure] describes, of a run of `silos`, and `helpers` without data; collective.

    ConfigError for unfit keys.

    `signer` is this silo's in the run; None: by [secure], else made for the session.
    """
    with raise_on_all_ranks(group.comm):
        signer = signer or configured_signer(secure, group.silo_id, silos + helpers)
    identity, roster = (None, None) if signer is None else (signer.identity, signer.roster)
    rules = rules_for(group.comm, secure, silos, helpers)
    return open_session(group, rules, config_digest, identity=identity, roster=roster)
