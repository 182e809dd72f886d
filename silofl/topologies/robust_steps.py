"""The server's half of a strategy with a robust rule before it: steps by what the rule makes of the updates.

Each named vector, the model's buffers among them, has a rule of its own, for a silo that sends an ordinary
update may send any buffers. Scalars have none, so that strategies that need them are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from silofl.aggregation.protocols import choose_protocol
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.robust.base import ResilientRule, apply, measure
from silofl.strategies.base import State, Strategy
from silofl.topologies.base import BUFFERS, Topology
from silofl.types import Total, Vector

CENTER = "robust center of "
"""Begins the name of what a rule gave in the round before, in the state of a slice, for each vector sent."""


@final
class RobustSteps(Strategy):
    """A strategy whose server's half is given what a rule makes of the updates, in the place of their means.

    Attributes:
        rejected: silos whose vectors were not finite in the round before, and were left out.
    """

    def __init__(self, inner: Strategy, rule: ResilientRule, seed: int) -> None:
        self._inner, self._rule, self._seed = inner, rule, seed
        self.shared, self.models, self.sends = inner.shared, inner.models, inner.sends  # type: ignore[misc]
        self.needs = "rows"  # type: ignore[misc]
        self.rejected: tuple[int, ...] = ()

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """The strategy's, and what the rule goes on from."""
        names = self.sends if self._rule.center else ()
        return self._inner.init(size, dtype) | {CENTER + name: np.zeros(size, dtype) for name in names}

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """What the rule knows of a slice, one vector after another."""
        known = [measure(self._rule, rows, state.get(CENTER + name)) for name, rows in rows_of(total).items()]
        return np.concatenate(known)

    def combine(self, state: State, total: Total) -> tuple[State, Total]:
        """The rule's results for means. ConfigError where too few silos are left for it."""
        rows, means, after = rows_of(total), dict(total.mean), dict(state)
        rejected: set[int] = set()
        for name, known in zip(rows, np.split(total.over_slices, len(rows)), strict=True):
            means[name] = np.empty_like(total.mean[name])
            center = state.get(CENTER + name)
            rng = np.random.default_rng([self._seed, self._draw_of(total.round_number)])
            rule, silos = self._rule, total.members
            if total.buckets:  # of which rows are the means already; a bucket goes by its first silo
                rule, silos = replace(rule, bucket=1), tuple(bucket[0] for bucket in total.buckets)
            try:
                given = rule, rows[name], known, silos, rng
                rejected |= set(apply(*given, center=center, out=means[name]))
            except ValueError as error:
                which = " (each the first of its bucket)" if total.buckets else ""
                raise ConfigError(f"round {total.round_number}: {error}{which}", rank=0) from None
            if center is not None:
                after[CENTER + name] = means[name].copy()
        self.rejected = tuple(sorted(rejected))
        return after, replace(total, mean=means)

    def _draw_of(self, round_number: int) -> int:
        """The first round that has the round's buckets."""
        return round_number - (round_number - 1) % (self._rule.redraw or 1)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """The strategy's, beside what is the rule's."""
        own = {name: values for name, values in state.items() if name.startswith(CENTER)}
        inner = {name: values for name, values in state.items() if name not in own}
        return self._inner.step(inner, shared, total) | own


def rows_of(total: Total) -> Mapping[str, list[Vector]]:
    """Every silo's slices, of the buffers last; a slice without values of a vector has them as well."""
    assert total.rows is not None
    return {name: total.rows[name] for name in sorted(total.rows, key=lambda one: (one == BUFFERS, one))}


def with_rule(strategy: Strategy, config: Config, silos: int) -> Strategy:
    """The strategy, with the rule of [robust] before its server's half where that sees rows of silos."""
    rule = config.robust.rule
    if rule is None or (rule.bucket == 1 and choose_protocol(config.secure, silos).private):
        return strategy
    return RobustSteps(strategy, rule, config.run.seed)


def rejected_by(topology: Topology) -> tuple[int, ...]:
    """The silos whose updates were left out of a topology's last round, as their values were not finite."""
    rejected: tuple[int, ...] = getattr(getattr(topology, "strategy", None), "rejected", ())
    return rejected
