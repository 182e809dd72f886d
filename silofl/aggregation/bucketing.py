"""Buckets of silos whose contributions are added up apart: how many silos are in each, and which."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from silofl.crypto.kdf import digest, pack_fields, pack_silos
from silofl.crypto.roster import Roster
from silofl.crypto.secagg import is_double, says_the_same
from silofl.errors import ProtocolError

Buckets = tuple[tuple[int, ...], ...]
"""Silo numbers, ascending in each, no silo in two; buckets in the order of their first silos."""
FEWEST_IN_BUCKET = 3
"""A sum over two shows each the other's contribution."""
DRAWN_WITHOUT = "; its two signatures are kept, and after --resume buckets are drawn without it"


Double = tuple[bytes, bytes]
"""Two commitments to two values of one draw, both signed by one silo, which they convict."""


class Draws(Protocol):
    """Where it is kept to which values silos have committed, as they signed it, by what was drawn."""

    def append(self, matter: bytes, commitments: Mapping[int, bytes]) -> None:
        """Have a draw on disk; raises where that fails."""

    def draws(self) -> dict[bytes, dict[int, bytes]]:
        """All of them."""

    def append_double(self, silo: int, double: Double) -> None:
        """Have on disk what convicts a silo; raises where that fails."""

    def doubles(self) -> dict[int, Double]:
        """By silo, what convicts it."""


@dataclass
class DrawnBuckets:
    """Which buckets rounds are summed in.

    Attributes:
        run: the run's id; what silos bring to a draw depends on it.
        log: has draws on disk; None where nothing outlives the process.
        earlier: by round, those that it was opened in before: another set of sums over the same contributions
            would show single ones.
        newest: those whose sums are opened next, or were last.
        convicted: silos that are in no draw, the same on every rank; see `Double`.
    """

    run: str = ""
    log: Draws | None = None
    earlier: dict[int, Buckets] = field(default_factory=dict)
    newest: Buckets = ()
    convicted: frozenset[int] = frozenset()
    _held: dict[bytes, dict[int, bytes]] | None = None

    def hold(self, matter: bytes, commitments: Mapping[int, bytes], roster: Roster) -> None:
        """Before this silo opens its value: have on disk, or compare, to which values all have committed.

        What is drawn again, in a round that keeps its buckets or in a restarted job, is drawn by the values
        of before, which are known by then. `commitments` are signed, and checked already. ProtocolError
        names a silo that would choose another.
        """
        if self._held is None:
            self._held = {} if self.log is None else self.log.draws()
        before = self._held.get(matter)
        if before is None:
            if self.log is not None:
                self.log.append(matter, commitments)
            before = self._held[matter] = dict(commitments)
        for silo, commitment in commitments.items():
            double = before.get(silo, b""), commitment
            if says_the_same(silo, *double):
                continue
            convicts = is_double(roster, silo, *double)
            if convicts:
                self.convict(silo, double)
            raise ProtocolError(
                f"silo {silo} commits to another value of the seed that draws buckets than before, when it "
                f"did not know the others': nothing was added up{DRAWN_WITHOUT if convicts else ''}",
                sender=silo,
            )

    def compare(self, commitments: Mapping[int, bytes], told: Mapping[int, bytes], roster: Roster) -> None:
        """Find who told silos different commitments: `told` has, by silo, all that it was given.

        ProtocolError names that silo, by its two signatures. Nothing happens where there is none.
        """
        for silo, commitment in commitments.items():
            for other in told.values():
                double = commitment, _parts(other).get(silo, b"")
                if is_double(roster, silo, *double):
                    self.convict(silo, double)
                    raise ProtocolError(
                        f"silo {silo} signed two commitments to the seed that draws buckets, and gave some "
                        f"silos one and some the other: nothing was added up{DRAWN_WITHOUT}",
                        sender=silo,
                    )

    def known(self) -> dict[int, Double]:
        """By silo, what this silo has on disk that convicts it."""
        return {} if self.log is None else self.log.doubles()

    def convict(self, silo: int, double: Double) -> None:
        """Have on disk what keeps a silo out of draws from the next start on."""
        if self.log is not None and silo not in self.known():
            self.log.append_double(silo, double)


def packed(commitments: Mapping[int, bytes]) -> bytes:
    """Signed commitments as they are told to others."""
    return json.dumps({str(silo): one.hex() for silo, one in commitments.items()}).encode()


def _parts(told: bytes) -> dict[int, bytes]:
    try:
        return {int(silo): bytes.fromhex(one) for silo, one in json.loads(told).items()}
    except (AttributeError, TypeError, ValueError):
        return {}


@dataclass(frozen=True)
class Bucketing:
    """How silos are drawn into buckets.

    Attributes:
        size: of the smallest bucket when all are there, at least `FEWEST_IN_BUCKET`.
        fewest: how many buckets a round needs.
        liars: in how many buckets there may be silos that send anything.
        redraw: after how many rounds they are drawn anew; None: when silos come or go.
        drawn: which buckets there were.
    """

    size: int
    fewest: int = 1
    liars: int = 0
    redraw: int | None = None
    drawn: DrawnBuckets = field(default_factory=DrawnBuckets, compare=False)

    def count(self, silos: int) -> int:
        """How many buckets so many silos are in; 0 where they are too few for one."""
        return silos // self.size

    def turn(self, round_number: int) -> int:
        """Which draw a round's buckets are of, from 0."""
        return 0 if self.redraw is None else (round_number - 1) // self.redraw

    def dealt(self, seed: bytes, silos: Collection[int]) -> Buckets:
        """Buckets of `silos` by a seed: in the order of a hash, cut into parts that differ by one at most."""
        order = sorted(silos, key=lambda silo: digest("place in a bucket", seed, pack_silos((silo,))))
        count = self.count(len(order))
        cuts = [len(order) * k // count for k in range(count + 1)] if count else []
        parts = (order[first:last] for first, last in pairwise(cuts))
        return tuple(sorted(tuple(sorted(part)) for part in parts))


def buckets_digest(buckets: Buckets) -> bytes:
    """32 bytes of which silos are in which bucket."""
    return digest("buckets", pack_fields(*(pack_silos(bucket) for bucket in buckets)))
