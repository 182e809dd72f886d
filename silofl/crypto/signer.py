"""What an institution signs and verifies with: its identity, and the roster by which it knows the others.

Without them the keys of a run are made at its first start: what that means is said here, for all who tell it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from silofl.config import SecureConfig
from silofl.crypto.identity import Identity, read_passphrase
from silofl.crypto.kdf import digest
from silofl.crypto.key_file import refuse_unreadable
from silofl.crypto.roster import Roster
from silofl.errors import ConfigError

EPHEMERAL = (
    "ephemeral, made at this run's first start and kept: where that was honest, nobody can return as another "
    "silo; an active adversary between the silos at that start, on the network or in the launcher, can "
    "impersonate any silo to any other and read updates; secure.identity and secure.roster protect from that "
    "(silofl keygen, silofl roster)"
)
OF_ROSTER = "of the institutions in secure.roster"
MOST_NAMED = 8


@dataclass(frozen=True)
class Signer:
    """One institution. What it signs for one purpose and one roster is nothing for another."""

    identity: Identity
    roster: Roster
    of_first_start: bool = False
    """Whether the keys are those that a run without a roster made, and learned, at its first start."""

    def sign(self, purpose: str, message: bytes) -> bytes:
        """The signature (64 bytes)."""
        return self.identity.sign(self._signed(purpose, message))

    def verify(self, silo: int, signature: bytes, purpose: str, message: bytes) -> bool:
        """Whether `silo` signed this message for this purpose."""
        known = 0 <= silo < len(self.roster)
        return known and self.roster.verify(silo, signature, self._signed(purpose, message))

    def _signed(self, purpose: str, message: bytes) -> bytes:
        return digest(f"signed: {purpose}", self.roster.digest, message)


def configured_signer(secure: SecureConfig, silo: int, silos: int) -> Signer | None:
    """This silo's, by `secure.identity` and `secure.roster`; None where neither is set.

    Raises ConfigError where one of them is not set, the roster has other institutions, or the key is
    another's.
    """
    if not secure.identity and not secure.roster:
        return None
    roster = configured_roster(secure, silos)
    passphrase = read_passphrase(Path(secure.passphrase_file)) if secure.passphrase_file else None
    identity = Identity.load(Path(secure.identity), passphrase)
    number = roster.silo_of(identity.public)
    if number != silo:
        raise ConfigError(
            f"{secure.identity} is the key of silo {number} and this is rank {silo}: "
            "start the ranks in the order of the roster"
        )
    return Signer(identity, roster)


def refuse_unusable(secure: SecureConfig, silos: int) -> None:
    """Raise what `configured_signer` would of files that are not there, or a roster of other numbers.

    No secret is read: it is for processes that need none.
    """
    if not secure.identity and not secure.roster:
        return
    configured_roster(secure, silos)
    refuse_unreadable(Path(secure.identity), "the private key")
    if secure.passphrase_file:
        refuse_unreadable(Path(secure.passphrase_file), "the passphrase file")


def configured_roster(secure: SecureConfig, silos: int) -> Roster:
    """The roster of a run of `silos`. Raises ConfigError for one of others, or without an identity."""
    if bool(secure.identity) != bool(secure.roster):
        raise ConfigError("secure.identity and secure.roster belong together: set both, or neither")
    roster = Roster.load(Path(secure.roster))
    if len(roster) != silos:
        raise ConfigError(f"{secure.roster} lists {len(roster)} institutions and {silos} ranks started")
    return roster


def describe_keys(secure: SecureConfig) -> str:
    """By which keys silos know each other in a run, and what ephemeral ones do not protect from."""
    return OF_ROSTER if secure.identity and secure.roster else EPHEMERAL


def has_keys(secure: SecureConfig) -> bool:
    """Whether this rank was given keys; with one of the two missing, `configured_signer` refuses it."""
    return bool(secure.identity or secure.roster)


def mixed_keys(have: Sequence[bool]) -> ConfigError | None:
    """The error of ranks of which only some have keys, by rank; None where all have or none has.

    They would wait for each other: those without exchange keys before the rest.
    """
    lacking = [rank for rank, one in enumerate(have) if not one]
    if len(lacking) in (0, len(have)):
        return None
    named = ", ".join(map(str, lacking[:MOST_NAMED])) + ("" if len(lacking) <= MOST_NAMED else ", ...")
    who = f"rank {named} has" if len(lacking) == 1 else f"ranks {named} have"
    return ConfigError(
        f"{who} no secure.identity and secure.roster, and the other ranks have: "
        "set both on every rank, or on none",
        rank=0,
    )
