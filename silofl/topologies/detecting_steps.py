"""The server's half of a strategy with detection before it: scores every update, and leaves some out.

What a silo is excluded for by the end of a round counts from the next one on, in which its rows are taken out
before a rule of [robust] sees them. Without such a rule the means are of those silos alone whose update of
this very round is not suspicious either, for one is enough to ruin a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import Config
from silofl.detection.remaining_mean import remaining_mean
from silofl.detection.silo_standing import ExclusionRules, Standing, Verdict, excluded_of, filtered, judge
from silofl.detection.update_scores import NOT_FINITE, Score, part_of, scores_of
from silofl.errors import ConfigError
from silofl.strategies.base import State, Strategy
from silofl.topologies.base import BUFFERS
from silofl.topologies.robust_steps import RobustSteps, rows_of, with_rule
from silofl.types import Total, Vector


@dataclass
class Watch:
    """What detection knows on one rank; the same on all.

    Attributes:
        rules: when silos are left out.
        standings: of silos, as the round begins.
        after: those after the round whose step is under way.
        verdict: what was decided in it; None before its scores are known.
    """

    rules: ExclusionRules
    standings: dict[int, Standing] = field(default_factory=dict)
    after: dict[int, Standing] = field(default_factory=dict)
    verdict: Verdict | None = None


@final
class DetectingSteps(Strategy):
    """A strategy whose server's half is given the updates of silos that are not left out.

    Attributes:
        rejected: silos whose vectors were not finite in the round before, and were left out.
        own: by vector that this silo sends in the round, the squared length of each slice.
    """

    def __init__(self, inner: Strategy, watch: Watch) -> None:
        self.own: dict[str, list[float]] = {}
        self._inner, self._watch = inner, watch
        self._means = not isinstance(inner, RobustSteps)
        self.shared, self.models, self.sends = inner.shared, inner.models, inner.sends  # type: ignore[misc]
        self.needs = "rows"  # type: ignore[misc]
        self.rejected: tuple[int, ...] = ()

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """See `Strategy`."""
        return self._inner.init(size, dtype)

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """What scores are made of, one vector after another, and behind it what the rule asks for.

        Of the model's buffers, whether they are finite: in honest silos they are as far apart as data are.
        """
        kept = self._places(total)
        own = [self._part(name, rows, kept) for name, rows in rows_of(total).items()]
        return np.concatenate([*own, self._inner.part(state, _without(total, kept))])

    def _part(self, name: str, rows: list[Vector], kept: list[int]) -> NDArray[np.float64]:
        if name != BUFFERS:
            return part_of(rows, kept)
        return np.array([0.0 if np.isfinite(row).all() else np.nan for row in rows])

    def _places(self, total: Total) -> list[int]:
        """Of the rows that are not left out from the beginning, which they are."""
        out = excluded_of(self._watch.standings, total.members, self._watch.rules)
        return [place for place, silo in enumerate(total.members) if silo not in out]

    def combine(self, state: State, total: Total) -> tuple[State, Total]:
        """The total without the silos that are left out. ConfigError where no update of finite values is."""
        watch, members, kept = self._watch, total.members, self._places(total)
        scores, rest = self._scores(total, kept)
        before = [silo for place, silo in enumerate(members) if place not in kept]
        watch.after, verdict = judge(watch.standings, scores, total.round_number, watch.rules)
        out = before
        if self._means:
            out = list(filtered(scores, before, watch.rules))
            kept = [place for place, silo in enumerate(members) if silo not in out]
        total = _without(replace(total, over_slices=rest), kept)
        if self._means and not kept:
            raise ConfigError(f"round {total.round_number}: no silo's update has finite values alone", rank=0)
        if self._means and out:
            total = replace(total, mean=_means(total))
        state, total = self._inner.combine(state, total)
        broken = {silo for silo, score in scores.items() if not score.finite}
        self.rejected = tuple(sorted(broken.difference(before)))
        watch.verdict = replace(verdict, left_out=tuple(silo for silo in out if silo not in self.rejected))
        return state, total

    def _scores(self, total: Total, kept: list[int]) -> tuple[dict[int, Score], NDArray[np.float64]]:
        """The worst score of each silo's vectors, and what of the sums over slices is the rule's."""
        count, rest = len(total.members), total.over_slices
        found: dict[int, Score] = {}
        for name in rows_of(total):
            size = count if name == BUFFERS else (count + 2) ** 2
            sums, rest = rest[:size], rest[size:]
            allowed = max(0, self._watch.rules.most - (count - len(kept)))
            scores = scores_of(sums, kept, allowed) if name != BUFFERS else []
            for silo, score in zip(total.members, scores, strict=False):
                worse = silo not in found or score.deviation > found[silo].deviation
                found[silo] = score if worse else found[silo]
            if name == BUFFERS:
                found |= {total.members[at]: NOT_FINITE for at in np.flatnonzero(~np.isfinite(sums))}
        return found, rest

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """See `Strategy`."""
        return self._inner.step(state, shared, total)


def _without(total: Total, kept: list[int]) -> Total:
    """The total with the rows in some places alone; means stay as they are."""
    if len(kept) == len(total.members):
        return total
    assert total.rows is not None
    return replace(
        total,
        silos=len(kept),
        rows={name: [rows[place] for place in kept] for name, rows in total.rows.items()},
        weights={name: weights[kept] for name, weights in total.weights.items()},
        members=tuple(total.members[place] for place in kept),
    )


def _means(total: Total) -> dict[str, Vector]:
    """Means (k,) over the rows that are left, by their weights."""
    assert total.rows is not None
    means = {name: remaining_mean(rows, total.weights[name]) for name, rows in total.rows.items()}
    return dict(total.mean) | means


def guarded(strategy: Strategy, config: Config, silos: int, watch: Watch | None) -> Strategy:
    """The strategy, with the rule of [robust] and detection before its server's half where there are any."""
    guarded_by_rule = with_rule(strategy, config, silos)
    return guarded_by_rule if watch is None else DetectingSteps(guarded_by_rule, watch)
