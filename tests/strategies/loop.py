"""A federation in one function: the methods of a strategy, over slices, and nothing else."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total
from tests.strategies.naive import FEATURES, Array, Data, gradient, loss

LR, STEPS = 0.02, 5
BOUNDS = (0, 3, 3, FEATURES)
"""Three slices, one of them empty."""


class Loop:
    """Silos that train by plain gradient descent, and a server of slices.

    Attributes:
        shared: the strategy's shared vectors by name.
        own: every silo's state of the strategy.
    """

    def __init__(self, strategy: Strategy, data: list[Data], bounds: Any = BOUNDS) -> None:
        self.strategy, self.data = strategy, data
        self.slices = [slice(*span) for span in pairwise(bounds)]
        kind = np.dtype(np.float64)
        self.shared = {name: np.zeros(FEATURES) for name in strategy.shared}
        self.own: list[State] = [strategy.local_init(FEATURES, kind) for _ in data]
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
        for index, part in enumerate(self.slices):
            rows = {name: [sent[k].vectors[name][part] for k in here] for name in self.strategy.sends}
            mean = {
                name: np.average(rows[name], axis=0, weights=by[weighting])
                for name, weighting in self.strategy.sends.items()
            }
            seen = rows if self.strategy.needs == "rows" else None
            total = Total(mean, scalars, len(here), len(self.data), resync, seen)
            views = {name: values[part] for name, values in self.shared.items()}
            self.server[index] = self.strategy.step(self.server[index], views, total)

    def _fit(self, k: int, resync: bool) -> tuple[Contribution, State]:
        data, x = self.data[k], self.shared["model"].copy()
        local = LocalRound(self.shared, self.own[k], LR, len(data[1]), resync)
        if self.strategy.local == "gradient":
            return self.strategy.contribute(gradient(data, x), 1, loss(data, x), local)
        losses = []
        for _ in range(STEPS):
            losses.append(loss(data, x))
            step = gradient(data, x)
            self.strategy.correct(step, x, local)
            x -= LR * step
        return self.strategy.contribute(x, STEPS, float(np.mean(losses)), local)
