"""Standing of silos: which ones are left out for what was seen of their updates, and when they come back.

Pure functions of what was known before a round and of the round's scores, so that every rank, and a run that
is resumed, decides the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from silofl.detection.update_scores import Score


@dataclass(frozen=True)
class ExclusionRules:
    """When a silo is left out, and for how long.

    Attributes:
        threshold: robust deviations beyond which an update is suspicious.
        strikes: how many suspicious rounds of the last `window` that a silo took part in exclude it.
        window: see `strikes`.
        exclusion: how many rounds an exclusion lasts at least.
        probation: for how many rounds after that one suspicious round excludes again.
        most: how many silos are left out at most, at a time; what is usual is seen without as many updates.
        fewest: how many updates have to be left.
        excludes: whether silos are left out at all, or scores shown alone.
    """

    threshold: float
    strikes: int
    window: int
    exclusion: int
    probation: int
    most: int
    fewest: int
    excludes: bool = True

    def room(self, present: int) -> int:
        """How many of `present` silos may be left out: less than half, whatever is configured."""
        least = min(self.most, present - self.fewest, (present - 1) // 2)
        return max(0, least) if self.excludes else 0


@dataclass(frozen=True)
class Standing:
    """What is known of one silo.

    Attributes:
        recent: of the last rounds that it took part in, the newest last, whether its update was suspicious.
        until: the last round of its exclusion; 0 where it is in the sum.
        probation_until: the last round of its probation; 0 without.
        deviation: of its last update.
    """

    recent: tuple[bool, ...] = ()
    until: int = 0
    probation_until: int = 0
    deviation: float = 0.0

    @property
    def excluded(self) -> bool:
        """Whether its updates are left out."""
        return self.until > 0

    def to_json(self) -> dict[str, Any]:
        """As JSON, in which an infinite deviation is null."""
        told = asdict(self) | {"recent": [int(one) for one in self.recent]}
        return told | {"deviation": self.deviation if math.isfinite(self.deviation) else None}

    @classmethod
    def from_json(cls, told: Any) -> Self:
        """The standing again. An error for what is none."""
        seen = told["deviation"]
        found = cls(
            tuple(bool(one) for one in told["recent"]),
            *(int(told["until"]), int(told["probation_until"])),
            math.inf if seen is None else float(seen),
        )
        if found.until < 0 or found.probation_until < 0 or math.isnan(found.deviation):
            raise ValueError
        return found


Standings = Mapping[int, Standing]
"""By silo; one that is not there has never been seen."""


@dataclass(frozen=True)
class Verdict:
    """What was decided in a round.

    Attributes:
        scores: of the round's updates, by silo.
        suspicious: silos whose update was.
        left_out: silos whose update the detection left out of this round's result.
        excluded: silos whose updates are left out from the next round on, and why.
        reinstated: silos whose updates are in the sum again from the next round on, and why.
    """

    scores: Mapping[int, Score] = field(default_factory=dict)
    suspicious: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    excluded: Mapping[int, str] = field(default_factory=dict)
    reinstated: Mapping[int, str] = field(default_factory=dict)


def excluded_of(standings: Standings, members: Sequence[int], rules: ExclusionRules) -> tuple[int, ...]:
    """Which of a round's members are left out: the most deviating, where there is no room for all."""
    found = [silo for silo in members if silo in standings and standings[silo].excluded]
    found.sort(key=lambda silo: (-standings[silo].deviation, silo))
    return tuple(sorted(found[: rules.room(len(members))]))


def filtered(scores: Mapping[int, Score], before: Sequence[int], rules: ExclusionRules) -> tuple[int, ...]:
    """Which silos are left out of a mean of this very round: excluded before, not finite, suspicious.

    As far as there is room; values that are not finite are left out whatever there is.
    """
    found = [silo for silo, score in scores.items() if not score.finite or silo in before]
    more = [silo for silo, score in scores.items() if score.deviation > rules.threshold]
    for silo in sorted(more, key=lambda silo: (-scores[silo].deviation, silo)):
        if silo not in found and len(found) < rules.room(len(scores)):
            found.append(silo)
    return tuple(sorted(found))


def judge(
    standings: Standings, scores: Mapping[int, Score], round_number: int, rules: ExclusionRules
) -> tuple[dict[int, Standing], Verdict]:
    """The standings after a round, and what changes with the next one.

    `scores` are of the silos that took part; the standing of others stays as it is. An exclusion that has
    lasted goes on as long as the silo would be excluded again.
    """
    suspicious = tuple(silo for silo in sorted(scores) if scores[silo].deviation > rules.threshold)
    after = dict(standings)
    excluded: dict[int, str] = {}
    reinstated: dict[int, str] = {}
    for silo, score in scores.items():
        before = after.get(silo, Standing())
        recent = (*before.recent, silo in suspicious)[-rules.window :]
        one = replace(before, recent=recent, deviation=score.deviation)
        if one.excluded and round_number >= one.until and not recent[-1] and sum(recent) < rules.strikes:
            one = Standing((), 0, round_number + rules.probation, score.deviation)
            reinstated[silo] = f"{sum(recent)} of its last {len(recent)} updates were suspicious"
        after[silo] = one
    room = rules.room(len(scores)) - sum(after[silo].excluded for silo in scores)
    guilty = [silo for silo in suspicious if not after[silo].excluded]
    for silo in sorted(guilty, key=lambda silo: (-scores[silo].deviation, silo)):
        one, score = after[silo], scores[silo]
        probation = round_number <= one.probation_until
        if room > 0 and (probation or sum(one.recent) >= rules.strikes):
            after[silo] = replace(one, until=round_number + rules.exclusion, probation_until=0)
            excluded[silo] = _reason(one, score, probation=probation)
            room -= 1
    return after, Verdict(scores, suspicious, (), dict(sorted(excluded.items())), reinstated)


def no_better(after: Standings, signed: Standings) -> tuple[dict[int, Standing], tuple[int, ...]]:
    """The worse of two standings of each silo after one round, and whose exclusion `signed` alone has."""
    found, still = dict(after), []
    for silo, known in signed.items():
        one = found.get(silo, Standing())
        if known.excluded and not one.excluded:
            still.append(silo)
        found[silo] = max(one, known, key=_badness)
    return found, tuple(still)


def _badness(one: Standing) -> tuple[int, int, int, float]:
    return one.until, one.probation_until, sum(one.recent), one.deviation


def _reason(one: Standing, score: Score, *, probation: bool) -> str:
    """Why a silo is excluded, for people."""
    seen = f"{sum(one.recent)} of its last {len(one.recent)} updates suspicious"
    seen = "an update suspicious on probation" if probation else seen
    if not score.finite:
        return f"{seen}, this one for {score.why}"
    return f"{seen}, this one for its {score.why}, {score.deviation:.3g} deviations from what is usual"
