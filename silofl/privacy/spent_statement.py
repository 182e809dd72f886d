"""A statement of what was spent, to be signed: against whom, at which deltas, assumed what, and not of what.

It is made of a configuration of [privacy] and a ledger, and of nothing else: equal ones give an equal text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from silofl.config import PrivacyConfig
from silofl.privacy.accountant import Method, epsilon
from silofl.privacy.claim import fellow_silos, fellows, neighbours
from silofl.privacy.dp_events import event_of, inexpressible, python_of
from silofl.privacy.ledger import ANY, Ledger
from silofl.privacy.places import PLACES
from silofl.privacy.plan import method_for
from silofl.privacy.processes import dearest, least_there
from silofl.privacy.releases import Release, seen_by

Json = dict[str, Any]
Spent = Mapping[Release, int]

FORMAT = 1
DELTAS = tuple(10.0**-power for power in range(4, 13))
"""At which epsilon is told besides at the configured delta."""

ASSUMED = (
    "noise, coins and samples are keystreams (AES-128 in counter mode): epsilon is that of true randomness "
    "for all who cannot tell these apart; each silo's key file is secret",
    "clipping and summing in floating point let one record move a sum by less than 1/256 more than its norm, "
    "which is measured, not proven",
    "what a task of one's own does in `data` (statistics of all samples, a split by labels) is not looked at",
    "how long steps take, and this processor's cache, are not observed",
)
COINS = (
    "in which rounds a silo's update counted nobody else learns: it trains in all of them, and in the others "
    "brings a zero under the same noise"
)
"""Where silos are sampled."""
NOT_COVERED = (
    "what is not counted here: hyperparameters that were tuned on the same data, and other runs on it",
    "copies of the run directory that were gone on with: each counts what it shows itself",
)


@dataclass(frozen=True)
class Adversary:
    """One observer, and what the releases tell it of each silo's data."""

    key: str
    who: str
    known: int
    """Of how many silos it knows the noise."""
    spent: Mapping[int, Spent | None]
    """By silo, as this observer sees it; None where no noise is left."""
    delta: float
    method: Method

    @cached_property
    def groups(self) -> list[tuple[tuple[int, ...], Spent | None, float]]:
        """Silos of equal releases, these, and epsilon; the largest epsilon first."""
        alike: list[tuple[list[int], Spent | None]] = []
        for silo, spent in sorted(self.spent.items()):
            same = next((silos for silos, other in alike if other == spent), None)
            if same is None:
                alike.append(([silo], spent))
            else:
                same.append(silo)
        found = [(tuple(silos), spent, self.at(spent, self.delta)) for silos, spent in alike]
        return sorted(found, key=lambda group: (-group[2], group[0]))

    @property
    def epsilon(self) -> float:
        """The largest of any silo's records; infinite where none can be told."""
        return self.groups[0][2] if self.groups else 0.0

    def at(self, spent: Spent | None, delta: float) -> float:
        """Epsilon of these releases."""
        return math.inf if spent is None else epsilon(spent, delta, self.method)

    @cached_property
    def curve(self) -> list[tuple[float, float]]:
        """Epsilon at each of `DELTAS`, of the silos for which it is largest at the configured delta."""
        return [(delta, self.at(self.groups[0][1] if self.groups else {}, delta)) for delta in DELTAS]

    def python(self) -> str:
        """That works out its epsilon by dp-accounting; of the silos for which it is largest."""
        spent, name = self.groups[0][1] if self.groups else {}, f"epsilon_{self.key}"
        said = f"# against {self.who}: stated as {_number(self.epsilon)} at delta {self.delta:g}\n"
        if spent is None:
            return f"{said}# no noise is left that it does not know\n"
        return (
            f'{said}{python_of(spent, self.delta, self.method, name)}print("against {self.who}:", {name})\n'
        )

    def to_json(self) -> Json:
        """As JSON; null for an epsilon that cannot be told."""
        return {
            "who": self.who,
            "knows_noise_of_silos": self.known,
            "delta": self.delta,
            "epsilon": _finite(self.epsilon),
            "curve": [[delta, _finite(found)] for delta, found in self.curve],
            "silos": [
                {
                    "silos": list(silos),
                    "epsilon": _finite(found),
                    "event": event_of(spent, self.method) if spent and not inexpressible(spent) else None,
                }
                for silos, spent, found in self.groups
            ],
            "python": self.python(),
        }


@dataclass(frozen=True)
class Statement:
    """What is said of one run, or of one data set."""

    of: str
    """What it is a statement of."""
    version: str
    privacy: PrivacyConfig
    ledger: Ledger
    facts: Sequence[tuple[str, str]] = ()
    """More of it: name and text."""
    outside: Sequence[str] = ()
    """What was shown and no epsilon covers."""
    more: Json = field(default_factory=dict)
    """Facts for programs."""
    method: Method | None = None
    """The accountant's; that of the configuration unless said."""

    @cached_property
    def adversaries(self) -> list[Adversary]:
        """Each with its epsilon."""
        place, silos = PLACES[self.privacy.place], sorted(self.ledger.silos)
        kinds = [("observer", "who sees the models", 0)]
        if place.holds_against_silos:
            kinds.append(("silos", fellow_silos(self.privacy), fellows(self.privacy)))
        spent = {silo: self.ledger.spent_by(silo) for silo in silos}
        method = method_for(self.privacy) if self.method is None else self.method
        return [Adversary(*kind, _seen(spent, kind[2]), self.privacy.delta, method) for kind in kinds]

    @property
    def trusted(self) -> str:
        """Who is trusted with more than the bound says."""
        place = PLACES[self.privacy.place]
        if place.alone:
            return "no rank: each silo adds all of its noise itself"
        if place.holds_against_silos:
            return (
                "that no more silos collude than privacy.colluding, and fewer than open the secure sum; that "
                "all others add their share of noise"
            )
        return (
            "every rank that serves the sum, each silo a slice or a coordinator all of it: it sees that "
            "without noise"
        )

    @property
    def assumed(self) -> tuple[str, ...]:
        """Under what epsilon holds."""
        by_silo = self.privacy.unit == "silo" and any(
            one.sample_rate < 1 for silo in self.ledger.silos for one in self.ledger.spent_by(silo)
        )
        return (*ASSUMED, *([COINS] if by_silo else []))

    def to_json(self) -> Json:
        """For programs; `format` changes where a key does."""
        return {
            "format": FORMAT,
            "silofl": self.version,
            "of": self.of,
            **self.more,
            "unit": self.privacy.unit,
            "neighbours": self.privacy.neighbours,
            "place": self.privacy.place,
            "mechanism": self.privacy.mechanism,
            "delta": self.privacy.delta,
            "against": {one.key: one.to_json() for one in self.adversaries},
            "trusted": self.trusted,
            "assumed": list(self.assumed),
            "outside": [*self.outside, *NOT_COVERED],
        }

    def python(self) -> str:
        """Python that works out every epsilon by dp-accounting alone."""
        return "\n".join(one.python() for one in self.adversaries)

    def text(self, recompute: str) -> str:
        """For people, to be signed; `recompute` is the command that works out the numbers again."""
        privacy = self.privacy
        rows = [
            ("privacy statement", f"of {self.of}, by silofl {self.version}"),
            *self.facts,
            ("unit", f"one {privacy.unit}"),
            ("neighbours", neighbours(privacy)),
            ("place", privacy.place),
            ("mechanism", f"{privacy.mechanism} noise"),
            ("trusted", self.trusted),
        ]
        for one in self.adversaries:
            rows += _told(one)
        if not PLACES[privacy.place].holds_against_silos:
            rows.append(("against", "a rank that serves the sum: nothing bounds what it sees"))
        rows += [("assumed", text) for text in self.assumed]
        rows += [("outside", text) for text in (*self.outside, *NOT_COVERED)]
        rows += [("recompute", recompute)]
        lines = [f"{name:18}{text}" for name, text in rows]
        return "\n".join(lines) + "\n\n" + self.python()


def _told(one: Adversary) -> list[tuple[str, str]]:
    """The lines on one adversary."""
    rows = [("against", f"{one.who}: {_number(one.epsilon)} at delta {one.delta:g}")]
    if len(one.groups) > 1:
        rows += [
            ("  by silo", f"{', '.join(map(_silo, silos))}: {_number(found)}")
            for silos, _, found in one.groups
        ]
    curve = ", ".join(f"{_short(found)} at {delta:g}" for delta, found in one.curve)
    rows.append(("  other deltas", curve))
    if one.groups and one.groups[0][1] and (why := inexpressible(one.groups[0][1])):
        rows.append(("  events", why))
    return rows


def _number(found: float) -> str:
    return f"epsilon {_short(found)}" if math.isfinite(found) else "no epsilon that can be told"


def _short(found: float) -> str:
    return f"{_up(found):.4g}" if math.isfinite(found) else "none"


def _up(found: float) -> float:
    """Rounded up to four digits: what is signed is not below what was spent."""
    if found <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(found)) - 3)
    return math.ceil(found / unit - 1e-9) * unit


def _finite(found: float) -> float | None:
    return found if math.isfinite(found) else None


def _seen(spent: Mapping[int, Spent], known: int) -> dict[int, Spent | None]:
    """By silo what who knows the noise of so many sees, of the records of which most was shown."""
    seen = {silo: seen_by(one, known) for silo, one in spent.items()}
    least = least_there(one for one in seen.values() if one is not None)
    return {silo: None if one is None else dearest(one, least) for silo, one in seen.items()}


def _silo(number: int) -> str:
    return "one person in several" if number == ANY else str(number)
