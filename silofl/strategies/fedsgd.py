"""FedSGD: one gradient step on the mean of the silos' gradients."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import Decay, PositiveFloat
from silofl.strategies._momentum import stepped, velocity
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class FedSGD(Strategy):
    """FedSGD (McMahan et al. 2017, section 2): centralized (S)GD on the union of the silos' data.

    With full batches the step equals gradient descent on the pooled samples.
    """

    lr: PositiveFloat = 1.0
    """Step size of the server along the mean gradient."""
    momentum: Decay = 0.0
    """Momentum, as torch.optim.SGD has it."""

    local = "gradient"

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Velocity, kept only with momentum."""
        return velocity(size, dtype, self.momentum)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model -= lr * v, where v = momentum * v + mean."""
        return stepped(state, shared["model"], total.mean["update"], -self.lr, self.momentum)

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The gradient at the shared model as it is."""
        return Contribution({"update": trained}), dict(local.state)
