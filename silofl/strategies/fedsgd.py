"""FedSGD: one gradient step on the mean of the silos' gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from silofl.strategies.base import Slice, State, Strategy


@final
@dataclass(frozen=True)
class FedSGD(Strategy):
    """FedSGD (McMahan et al. 2017, section 2): centralized (S)GD on the union of the silos' data.

    With full batches the step equals gradient descent on the pooled samples.
    """

    lr: float
    momentum: float = 0.0
    local: Literal["gradient"] = "gradient"  # type: ignore[misc]
    linear: bool = True  # type: ignore[misc]

    def init(self, size: int, dtype: np.dtype[np.floating]) -> State:
        """Velocity, kept only with momentum."""
        return {"velocity": np.zeros(size, dtype)} if self.momentum else {}

    def step(self, state: State, parameters: Slice, mean: Slice) -> State:
        """parameters -= lr * v, where v = momentum * v + mean (torch.optim.SGD's momentum)."""
        if not self.momentum:
            parameters -= mean * parameters.dtype.type(self.lr)
            return state
        velocity = state["velocity"] * parameters.dtype.type(self.momentum) + mean
        parameters -= velocity * parameters.dtype.type(self.lr)
        return {"velocity": velocity}
