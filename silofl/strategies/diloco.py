"""DiLoCo: long local training, and Nesterov's momentum over what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import Decay, PositiveFloat
from silofl.strategies._momentum import stepped, velocity
from silofl.strategies.base import State, Strategy
from silofl.types import Total, Vector


@final
@dataclass(frozen=True)
class DiLoCo(Strategy):
    """DiLoCo (Douillard et al. 2023, algorithm 1): silos count equally, and the outer step is Nesterov's.

    The paper trains 500 steps of AdamW between sums (`train.optimizer`, `train.steps`), whose moments a silo
    keeps: `train.keep_optimizer = true`.
    """

    lr: PositiveFloat = 0.7
    """Outer learning rate. Over many rounds a step counts lr / (1 - momentum) times, 7 times as it stands:
    local rates are to be small."""
    momentum: Decay = 0.9
    """Outer momentum: the part of the last outer step that is kept."""

    sends = {"update": "uniform"}  # noqa: RUF012 - the base declares it

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Velocity."""
        return velocity(size, dtype, self.momentum)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += lr * (mean + momentum * v), where v = momentum * v + mean."""
        model, mean = shared["model"], total.mean["update"]
        return stepped(state, model, mean, self.lr, self.momentum, nesterov=True)
