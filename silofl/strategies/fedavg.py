"""FedAvg: add the weighted mean of the silos' model changes."""

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
class FedAvg(Strategy):
    """FedAvg (McMahan et al. 2017, algorithm 1) with server learning rate and momentum (Hsu et al. 2019)."""

    lr: PositiveFloat = 1.0
    """Server learning rate; with 1, and no momentum, the new model is the weighted mean of the silos'."""
    momentum: Decay = 0.0
    """Server momentum (FedAvgM, Hsu et al. 2019)."""

    @property
    def averages(self) -> bool:
        """See `Strategy`."""
        return self.lr == 1.0 and not self.momentum

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Velocity, kept only with momentum."""
        return velocity(size, dtype, self.momentum)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += lr * v, where v = momentum * v + mean."""
        return stepped(state, shared["model"], total.mean["update"], self.lr, self.momentum)
