"""FedProx: FedAvg whose silos are held near the global model while they train."""

from dataclasses import dataclass
from typing import final

from silofl.constrained import NonNegativeFloat
from silofl.strategies.base import LocalRound, Strategy, Values


@final
@dataclass(frozen=True)
class FedProx(Strategy):
    """FedProx (Li et al. 2020, "Federated Optimization in Heterogeneous Networks", algorithm 2).

    Silos minimize f_k(x) + mu/2 ||x - x_global||^2, however far they get with it.
    """

    mu: NonNegativeFloat = 0.1
    """Weight of the proximal term; 0 is FedAvg. Without units; the paper takes 0.001 to 1."""

    def correct(self, gradient: Values, values: Values, local: LocalRound) -> None:
        """gradient += mu * (x - x_global)."""
        gradient += self.mu * (values - local.shared["model"])
