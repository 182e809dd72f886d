"""What the silos of a run agree on beforehand, and the round that a message belongs to."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property

from silofl.crypto.framing import MOST_SILOS
from silofl.crypto.graph import Bounds
from silofl.crypto.kdf import digest, pack_silos
from silofl.crypto.masks import PRG_KEY_BYTES, Prg
from silofl.crypto.roster import Roster
from silofl.crypto.session_id import SESSION_BYTES
from silofl.crypto.threshold import default_threshold
from silofl.errors import ConfigError
from silofl.types import RingBits

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Rules:
    """The protocol's parameters, the same on every silo.

    `threshold`: how many silos must agree on the survivors, and whose shares open a secret (in a complete
    graph); more than half. None: `default_threshold`. `allow_two` admits sums over two silos, each of which
    learns the other's vector from the sum.
    """

    prg: Prg = "aes-128-ctr"
    bits: RingBits = 16
    threshold: int | None = None
    allow_two: bool = False
    bounds: Bounds = field(default_factory=Bounds)

    def __post_init__(self) -> None:
        if self.prg not in PRG_KEY_BYTES:
            raise ConfigError(f"secure.prg = {self.prg!r} is none of {', '.join(PRG_KEY_BYTES)}")
        if self.bits not in (8, 16, 32):
            raise ConfigError(f"secure.bits = {self.bits} is none of 8, 16, 32")


@dataclass(frozen=True)
class Round:
    """One round of one run: the session (16 bytes), the round's number, its silos, and the rules.

    ConfigError unless it can protect anybody: one silo never, two only by `allow_two`, a threshold of more
    than half (two disjoint sets of survivors can then never both be agreed on).
    """

    session: bytes
    number: int
    roster: Roster
    config_digest: bytes
    """SHA-256 (32 bytes) of the run's configuration."""
    members: tuple[int, ...]
    """Silo numbers expected in this round, ascending."""
    rules: Rules = field(default_factory=Rules)
    matter: bytes = b""
    """What is to be added up, as every silo must have it; empty where that is no silo's own choice."""

    def __post_init__(self) -> None:
        if len(self.session) != SESSION_BYTES or len(self.config_digest) != DIGEST_BYTES:
            raise ConfigError(f"a session has {SESSION_BYTES} bytes and a digest {DIGEST_BYTES}")
        if not 0 <= self.number < 1 << 64:
            raise ConfigError(f"round {self.number} is not between 0 and 2^64 - 1")
        if self.members != tuple(sorted(set(self.members))) or not self.members:
            raise ConfigError("the members of a round are distinct silo numbers, ascending")
        if self.members[0] < 0 or self.members[-1] >= min(len(self.roster), MOST_SILOS):
            raise ConfigError(f"silo {self.members[-1]} is not in the roster of {len(self.roster)}")
        self._check_size(len(self.members))

    def _check_size(self, silos: int) -> None:
        if silos == 1:
            raise ConfigError(
                "a secure sum over one silo is that silo's update; it needs at least three silos"
            )
        if silos == 2 and not self.rules.allow_two:
            raise ConfigError(
                "a secure sum over two silos shows each the other's update; use three silos, or allow it by "
                "name with secure.allow_two = true"
            )
        if not silos // 2 < self.threshold <= silos:
            raise ConfigError(
                f"secure.threshold = {self.threshold} must be more than half of {silos} silos, at most all"
            )

    @property
    def threshold(self) -> int:
        """How many silos must vote for the survivors."""
        return default_threshold(len(self.members)) if self.rules.threshold is None else self.rules.threshold

    @property
    def minimum(self) -> int:
        """The fewest silos that a sum may be over."""
        return max(self.threshold, 2 if self.rules.allow_two else 3)

    @cached_property
    def terms_digest(self) -> bytes:
        """SHA-256 (32 bytes) of members, rules and matter."""
        rules, bounds = self.rules, self.rules.bounds
        numbers = struct.pack(
            ">BI?ddHHI",
            rules.bits,
            self.threshold,
            rules.allow_two,
            bounds.colluding,
            bounds.dropping,
            bounds.security_bits,
            bounds.correctness_bits,
            bounds.complete_up_to,
        )
        return digest("terms", pack_silos(self.members), rules.prg.encode(), numbers, self.matter)
