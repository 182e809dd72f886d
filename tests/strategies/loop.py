"""A federation in one function: the methods of a strategy, over slices, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total
from tests.strategies.naive import SIZE, Array, Data, gradient, loss

LR, STEPS = 0.3, 5
BOUNDS = (0, 3, 3, SIZE)
"""Three slices, one of them empty."""


class Loop:
    """Silos that train by plain gradient descent, and a server of slices.

    Attributes:
        shared: the strategy's shared vectors by name.
        own: every silo's state of the strategy.
    """

    def __init__(
        self,
        strategy: Strategy,
        data: list[Data],
        bounds: Any = BOUNDS,
        *,
        steps: Sequence[int] = (),
        momentum: float = 0.0,
    ) -> None:
        self.strategy, self.data, self.momentum = strategy, data, momentum
        self.steps = steps or [STEPS] * len(data)
        self.slices = [slice(*span) for span in pairwise(bounds)]
        kind = np.dtype(np.float64)
        self.shared = {name: np.zeros(SIZE) for name in strategy.shared}
        self.own: list[State] = [strategy.local_init(SIZE, kind) for _ in data]
        self.server = [strategy.init(part.stop - part.start, kind) for part in self.slices]

    def run(self, present: Any) -> Array:
        """The model after rounds with these silos."""
        for here in present:
            self.round(here)
        return self.shared["model"]

    def round(self, here: tuple[int, ...], *, resync: bool = False) -> None:
        """One round: an absent silo keeps its state."""
        sent = {}
        for k in here:
            sent[k], self.own[k] = self._fit(k, resync)
        samples = [len(self.data[k][1]) for k in here]
        by = {"samples": samples, "uniform": [1] * len(here), "round": [sent[k].weight for k in here]}
        scalars = {
            name: float(np.average([sent[k].scalars[name] for k in here], weights=samples))
            for name in self.strategy.scalars
        }
        totals = [self._total(part, sent, by, scalars, resync) for part in self.slices]
        over_slices = np.sum([*map(self.strategy.part, self.server, totals)], axis=0)
        for index, (part, total) in enumerate(zip(self.slices, totals, strict=True)):
            views = {name: values[part] for name, values in self.shared.items()}
            whole = replace(total, over_slices=over_slices)
            self.server[index] = self.strategy.step(self.server[index], views, whole)

    def _total(
        self, part: slice, sent: dict[int, Contribution], by: Any, scalars: Any, resync: bool
    ) -> Total:
        rows = {name: [one.vectors[name][part] for one in sent.values()] for name in self.strategy.sends}
        mean = {
            name: np.average(rows[name], axis=0, weights=by[weighting])
            for name, weighting in self.strategy.sends.items()
        }
        seen = rows if self.strategy.needs == "rows" else None
        return Total(mean, scalars, len(sent), len(self.data), resync, seen)

    def _fit(self, k: int, resync: bool) -> tuple[Contribution, State]:
        data, x = self.data[k], self.shared["model"].copy()
        start = loss(data, x), gradient(data, x)
        local = LocalRound(self.shared, self.own[k], LR, len(data[1]), resync, self.momentum, *start)
        if self.strategy.local == "gradient":
            return self.strategy.contribute(gradient(data, x), 1, loss(data, x), local)
        losses, buffer = [], np.zeros(SIZE)
        for _ in range(self.steps[k]):
            losses.append(loss(data, x))
            step = gradient(data, x)
            self.strategy.correct(step, x, local)
            buffer = self.momentum * buffer + step
            x -= LR * buffer
        return self.strategy.contribute(x, self.steps[k], float(np.mean(losses)), local)
