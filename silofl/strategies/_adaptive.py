"""Adaptive server optimizers (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from silofl.strategies.base import State, Strategy
from silofl.types import Total, Vector


class Adaptive(Strategy):
    """The lines that FedAdagrad, FedAdam and FedYogi share; they differ in the second moment.

    Without bias correction, as in the paper. It asks of v to begin at tau^2 or above; here it begins at
    `initial`, squared.
    """

    lr: float
    beta1: float
    tau: float
    initial: float

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Both moments; of the first none where nothing is kept of it."""
        second = np.full(size, self.initial**2, dtype)
        return {"second": second} | ({"first": np.zeros(size, dtype)} if self.beta1 else {})

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """m = beta1 m + (1 - beta1) mean; v by `second`; model += lr m / (sqrt(v) + tau)."""
        model, mean = shared["model"], total.mean["update"]
        kind = model.dtype.type
        first = mean
        if self.beta1:
            first = state["first"] * kind(self.beta1) + mean * kind(1 - self.beta1)
        second = self.second(state["second"], mean * mean)
        model += first * kind(self.lr) / (np.sqrt(second) + kind(self.tau))
        return {"second": second} | ({"first": first} if self.beta1 else {})

    @abstractmethod
    def second(self, before: Vector, square: Vector) -> Vector:
        """The next v (k,), a new array, from v and the squares of the mean."""
