"""FedExP: a server learning rate that grows with how much silos differ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import NonNegativeFloat
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class FedExP(Strategy):
    """FedExP (Jhunjhunwala et al. 2023, "Speeding Up Federated Averaging via Extrapolation", algorithm 1).

    The rate is max(1, sum |change_i|^2 / (2 M (|mean change|^2 + epsilon))) over the M silos of a round,
    which count equally. What all learn beside the model is the mean of the squared norms.
    """

    epsilon: NonNegativeFloat = 1e-3
    """Added to the squared norm of the mean change, which may be zero; in its units."""

    sends = {"update": "uniform"}  # noqa: RUF012 - the base declares it
    scalars = ("square", "share")

    def part(self, state: State, total: Total) -> NDArray[np.float64]:
        """A slice's part of |mean change|^2."""
        mean = total.mean["update"].astype(np.float64)
        return np.array([np.add.reduce(mean * mean)])

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += rate * mean."""
        (square,) = total.over_slices
        mean_square = total.scalars["square"] / total.scalars["share"]
        below = 2 * (float(square) + self.epsilon)
        rate = max(1.0, mean_square / below) if below > 0 else 1.0
        model = shared["model"]
        model += total.mean["update"] * model.dtype.type(rate)
        return state

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The change, and its squared norm; scalars are weighted by samples, which is divided out again."""
        trained -= local.shared["model"]
        values = trained.astype(np.float64)
        square = float(np.add.reduce(values * values)) / local.samples
        return Contribution({"update": trained}, {"square": square, "share": 1 / local.samples}), dict(
            local.state
        )
