"""What was spent, silo by silo: kept in checkpoints, so that a resume neither forgets nor spends twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from silofl.errors import ConfigError
from silofl.privacy.accountant import Method, check, epsilon
from silofl.privacy.releases import Release, parse_release


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
        check({release: count}, "rdp")  # which has every mechanism; `epsilon` asks for the method's own
        for silo in silos if count else ():
            self._spent.setdefault(silo, Counter())[release] += count

    def spent_by(self, silo: int) -> Mapping[Release, int]:
        """How often each release was made of this silo's data; empty for a silo that took part in none."""
        return dict(self._spent.get(silo, {}))

    def forgets(self, other: Ledger, silo: int) -> bool:
        """Whether `other` has more releases of this silo's data than this ledger."""
        here, there = rounded(self.spent_by(silo)), rounded(other.spent_by(silo))
        return any(here[release] < count for release, count in there.items())

    def epsilon_per_silo(self, delta: float, method: Method) -> dict[int, float]:
        """Epsilon of each silo's records (or of the silo) at `delta`, for the silos that took part in any."""
        found: dict[frozenset[tuple[Release, int]], float] = {}
        result = {}
        for silo, spent in sorted(self._spent.items()):
            same = frozenset(spent.items())  # mostly all silos took part in the same releases
            if same not in found:
                found[same] = epsilon(spent, delta, method)
            result[silo] = found[same]
        return result

    def epsilon(self, delta: float, method: Method) -> float:
        """The federation's epsilon at `delta`: the largest of any silo, and 0 before anything was released.

        A record lies with one silo, so the releases that other silos took part in tell nothing of it: silos
        compose in parallel (McSherry 2009, Theorem 4), and only a silo's own releases add up.
        """
        return max(self.epsilon_per_silo(delta, method).values(), default=0.0)

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
            rows = [(int(silo), kinds[at], n) for silo, row in entry["silos"].items() for at, n in row]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"the ledger of what was spent is damaged ({error!r}): {text[:80]!r}"
            ) from error
        ledger = cls()
        for silo, kind, count in rows:
            ledger.record(kind, [silo], count)
        if json.loads(ledger.to_json()) != entry:
            raise ConfigError(
                f"the ledger of what was spent is damaged: {text[:80]!r} is not as it was written"
            )
        return ledger

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ledger) and self._spent == other._spent

    __hash__ = None  # type: ignore[assignment]
