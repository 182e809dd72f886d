"""How long a round's exchanges take over a link that a user names: `silofl check --link`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from silofl.errors import ConfigError
from silofl.federation.traffic import Sent


@dataclass(frozen=True)
class Link:
    """What lies between one silo and all others together.

    Attributes:
        megabits: Mbit/s in each direction.
        latency_ms: milliseconds that a message takes from one silo to another.
    """

    megabits: float
    latency_ms: float = 0.0

    @classmethod
    def named(cls, text: str) -> Link:
        """Of "MBIT" or "MBIT,MS", such as "100,20". ConfigError where it is neither."""
        try:
            rate, *more = (float(one) for one in text.split(","))
            link = cls(rate, *more)
        except (ValueError, TypeError):
            link = cls(math.nan)
        if 0 < link.megabits < math.inf and 0 <= link.latency_ms < math.inf:
            return link
        raise ConfigError(
            f'--link "{text}" is no link: give Mbit/s, and milliseconds of latency if there are some, '
            "such as 100 or 100,20"
        )

    def describe(self, sent: Sent) -> str:
        """The time of a round in which each silo sends so much."""
        payload, waits = 8e-6 * sent.bytes / self.megabits, 1e-3 * self.latency_ms * sent.exchanges
        told = f"at least {payload + waits:.3g} s a round, beside training and the work on vectors, at "
        told += f"{self.megabits:g} Mbit/s between each silo and the others"
        if not waits:
            return told
        return (
            f"{told} and {self.latency_ms:g} ms: {payload:.3g} s for the bytes, and {waits:.3g} s for "
            f"{sent.exchanges} exchanges, one after another"
        )
