"""What was spent, silo by silo: kept in checkpoints, so that a resume neither forgets nor spends twice."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from silofl.errors import ConfigError
from silofl.privacy.accountant import Method, check, epsilon
from silofl.privacy.processes import least_there, of_groups
from silofl.privacy.releases import Release, parse_release, seen_by

ANY = -1
"""In place of a silo: what was made of the data of any, where one person may have records in several."""


def rounded(spent: Mapping[Release, int]) -> Counter[tuple[object, ...]]:
    """Counts of releases whose numbers are equal but for the last bits, in which processors differ."""
    counts = Counter[tuple[object, ...]]()
    for release, count in spent.items():
        numbers = asdict(release).values()
        counts[tuple(f"{one:.6g}" if isinstance(one, float) else one for one in numbers)] += count
    return counts


class Ledger:
    """How often each silo's data took part in each kind of release; equal to another with the same counts.

    What it says depends on the counts alone, so a ledger from a checkpoint gives the same bits.
    """

    def __init__(self) -> None:
        self._spent: dict[int, Counter[Release]] = {}

    def record(self, release: Release, silos: Iterable[int], count: int = 1) -> None:
        """`count` more releases of sums in which the data of `silos` took part; 0 changes nothing.

        ConfigError, and nothing recorded, for a release that no accountant supports.
        """
        check({release: count})  # `epsilon` asks for the method's own
        there = [*silos] if count else []
        shared = [ANY] if there and release.institutions > 1 else []
        for silo in there + shared:
            self._spent.setdefault(silo, Counter())[release] += count

    @property
    def silos(self) -> tuple[int, ...]:
        """The silos whose data took part in any release, ascending."""
        return tuple(sorted(self._spent))

    def spent_by(self, silo: int) -> Mapping[Release, int]:
        """How often each release was made of this silo's data; empty for a silo that took part in none."""
        return dict(self._spent.get(silo, {}))

    def most_often(self) -> Mapping[Release, int]:
        """How often each release was made, of the silo of which it was most often."""
        found = Counter[Release]()
        for spent in self._spent.values():
            found |= spent
        return dict(found)

    def forgets(self, other: Ledger, silo: int) -> bool:
        """Whether `other` has more releases of this silo's data than this ledger."""
        pairs = [(rounded(self.spent_by(one)), rounded(other.spent_by(one))) for one in (silo, ANY)]
        return any(here[release] < count for here, there in pairs for release, count in there.items())

    def epsilon_per_silo(self, delta: float, method: Method) -> dict[int, float]:
        """Epsilon of each silo's records (or of the silo) at `delta`, for the silos that took part in any.

        With correlated noise it is the largest of any group of records.
        """
        every = self._epsilons(delta, method)
        return {silo: epsilon for silo, epsilon in every.items() if silo != ANY}

    def _epsilons(self, delta: float, method: Method) -> dict[int, float]:
        least = least_there(self._spent.values())
        found: dict[frozenset[tuple[Release, int]], float] = {}
        result = {}
        for silo, spent in sorted(self._spent.items()):
            same = frozenset(spent.items())  # mostly all silos took part in the same releases
            if same not in found:
                groups = of_groups(spent, least)
                each = [math.inf] if groups is None else [epsilon(one, delta, method) for one in groups]
                found[same] = max(each)
            result[silo] = found[same]
        return result

    def epsilon(self, delta: float, method: Method) -> float:
        """The federation's epsilon at `delta`: the largest of any silo, and 0 before anything was released.

        A record lies with one silo, so the releases that other silos took part in tell nothing of it: silos
        compose in parallel (McSherry 2009, Theorem 4), and only a silo's own releases add up. Where one
        person may have records in several silos, those are releases in which any of them took part: all.
        """
        return max(self._epsilons(delta, method).values(), default=0.0)

    def epsilon_against(self, silos: int, delta: float, method: Method) -> float:
        """`epsilon` for who knows the noise of so many silos; infinite where a sum would have none left."""
        other = Ledger()
        for silo, spent in self._spent.items():
            seen = seen_by(spent, silos)
            if seen is None:
                return math.inf
            other._spent[silo] = Counter(seen)
        return other.epsilon(delta, method)

    def relations(self) -> set[str]:
        """Under which neighbouring relations its releases were counted."""
        return {release.neighbours for spent in self._spent.values() for release in spent}

    def copy(self) -> Ledger:
        """An equal ledger that no longer follows this one, such as to ask what a round would cost."""
        other = Ledger()
        other._spent = {silo: Counter(spent) for silo, spent in self._spent.items()}
        return other

    def to_json(self) -> str:
        """JSON from which `from_json` makes an equal ledger, bit for bit; equal ledgers give equal text."""
        kinds = sorted({kind for spent in self._spent.values() for kind in spent}, key=Release.to_json)
        silos = {
            str(silo): [[at, spent[kind]] for at, kind in enumerate(kinds) if kind in spent]
            for silo, spent in sorted(self._spent.items())
        }
        return json.dumps({"releases": [asdict(kind) for kind in kinds], "silos": silos})

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """The ledger that `to_json` wrote; ConfigError for anything else."""
        try:
            entry = json.loads(text)
            kinds = [parse_release(kind) for kind in entry["releases"]]
            entry["releases"] = [asdict(kind) for kind in kinds]  # with what an older one had no number of
            rows = [(int(silo), kinds[at], n) for silo, row in entry["silos"].items() for at, n in row]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"the ledger of what was spent is damaged ({error!r}): {text[:80]!r}"
            ) from error
        ledger = cls()
        for silo, kind, count in rows:
            check({kind: count})
            if count:
                ledger._spent.setdefault(silo, Counter())[kind] += count
        if json.loads(ledger.to_json()) != entry:
            raise ConfigError(
                f"the ledger of what was spent is damaged: {text[:80]!r} is not as it was written"
            )
        return ledger

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._spent == other._spent

    __hash__ = None  # type: ignore[assignment]
