"""FedAvg: add the weighted mean of the silos' model changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from silofl.strategies.base import Slice, State, Strategy


@final
@dataclass(frozen=True)
class FedAvg(Strategy):
    """FedAvg (McMahan et al. 2017, algorithm 1) with server learning rate and momentum (Hsu et al. 2019).

    With lr 1 and momentum 0 the new model is the mean of the silos' models, weighted by sample counts.
    """

    lr: float = 1.0
    momentum: float = 0.0
    local: Literal["delta"] = "delta"  # type: ignore[misc]
    linear: bool = True  # type: ignore[misc]

    def init(self, size: int, dtype: np.dtype[np.floating]) -> State:
        """Velocity, kept only with momentum."""
        return {"velocity": np.zeros(size, dtype)} if self.momentum else {}

    def step(self, state: State, parameters: Slice, mean: Slice) -> State:
        """parameters += lr * v, where v = momentum * v + mean."""
        if not self.momentum:
            parameters += mean if self.lr == 1.0 else mean * parameters.dtype.type(self.lr)
            return state
        velocity = state["velocity"] * parameters.dtype.type(self.momentum) + mean
        parameters += velocity * parameters.dtype.type(self.lr)
        return {"velocity": velocity}
