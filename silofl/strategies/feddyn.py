"""FedDyn: silos whose regularizers move until all minimize one function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import PositiveFloat
from silofl.strategies.base import LocalRound, State, Strategy, Values
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class FedDyn(Strategy):
    """FedDyn (Acar et al. 2021, "Federated Learning Based on Dynamic Regularization", algorithm 1).

    A silo minimizes f_k(x) - <g_k, x> + alpha/2 ||x - x_global||^2, where g_k is what its gradient was where
    it ended before. Silos count equally. The server's h is the mean of all g_k, present or not.
    """

    alpha: PositiveFloat = 0.1
    """Weight of the regularizer; the paper takes 0.001 to 0.1."""

    sends = {"update": "uniform", "gradient": "uniform"}  # noqa: RUF012 - the base declares it

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """h = 0."""
        return {"gradient": np.zeros(size, dtype)}

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """h += |S| / N * mean(change of g_k); x = mean(x_k) - h / alpha.

        After a silo came back with an older g_k all send g_k itself once, and h is their mean: see SCAFFOLD.
        """
        model, mean = shared["model"], total.mean["gradient"]
        kind = model.dtype.type
        gradient = mean.copy()
        if not total.resync:
            gradient *= kind(total.silos / total.all_silos)
            gradient += state["gradient"]
        model += total.mean["update"]
        model -= gradient * kind(1 / self.alpha)
        return {"gradient": gradient}

    def local_init(self, size: int, dtype: np.dtype[Any]) -> State:
        """g_k = 0."""
        return {"gradient": np.zeros(size, dtype)}

    def correct(self, gradient: Values, values: Values, local: LocalRound) -> None:
        """gradient += alpha (x - x_global) - g_k."""
        gradient += self.alpha * (values - local.shared["model"])
        gradient -= local.state["gradient"]

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """g_k -= alpha (x_k - x_global); sends the change of the model, and of g_k."""
        trained -= local.shared["model"]
        change = trained * trained.dtype.type(-self.alpha)
        gradient = local.state["gradient"] + change
        sent = gradient.copy() if local.resync else change
        return Contribution({"update": trained, "gradient": sent}), {"gradient": gradient}
