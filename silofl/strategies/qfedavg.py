"""q-FedAvg: silos that are badly served count more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.constrained import NonNegativeFloat, PositiveFloat
from silofl.errors import TrainingError
from silofl.strategies.base import AtStart, LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class QFedAvg(Strategy):
    """q-FedAvg (Li et al. 2020, "Fair Resource Allocation in Federated Learning", algorithm 2).

    The silos minimize the mean of F_k^(q+1) / (q+1), where F_k is the loss of silo k; they count equally. A
    silo tells its F_k in two numbers of the sum, which costs a pass over its samples before it trains.
    """

    q: NonNegativeFloat = 1.0
    """How much large losses count: 0 is FedAvg with silos that count equally; the paper takes 0.001 to 5."""
    lipschitz: PositiveFloat | None = None
    """L, an estimate of the Lipschitz constant of the losses' gradients; 1 / train.lr when unset, as the
    paper has it."""

    needs_rates = True
    sends = {"update": "uniform"}  # noqa: RUF012 - the base declares it
    scalars = ("normalizer", "share")

    def at_start(self) -> AtStart:
        """F_k at the shared model."""
        return "loss"

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += sum(F_k^q (x_k - x)) / sum(h_k / L)."""
        normalizer = total.scalars["normalizer"] / total.scalars["share"]
        model = shared["model"]
        model += total.mean["update"] * model.dtype.type(1 / normalizer)
        return state

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """F_k^q (x_k - x), and h_k / L = F_k^q + q F_k^(q-1) L |x_k - x|^2.

        Scalars are weighted by samples, which is divided out again. Raises TrainingError of a negative loss.
        """
        if local.start_loss < 0:
            raise TrainingError(
                "strategy.name = 'qfedavg' raises losses to the power strategy.q, and this silo's is "
                "negative: let the task's loss be 0 or more, or choose another strategy"
            )
        trained -= local.shared["model"]
        values = trained.astype(np.float64)
        square = float(np.add.reduce(values * values))
        base = max(local.start_loss, SMALLEST)
        power, lipschitz = base**self.q, self.lipschitz or 1 / local.lr
        trained *= trained.dtype.type(power)
        normalizer = power * (1 + self.q * lipschitz * square / base)
        scalars = {"normalizer": normalizer / local.samples, "share": 1 / local.samples}
        return Contribution({"update": trained}, scalars), dict(local.state)


SMALLEST = 1e-10
"""What a loss counts as at least: no power of it is zero or infinite."""
