"""FedAdagrad: FedAvg with Adagrad at the server."""

from dataclasses import dataclass
from typing import final

from silofl.constrained import Decay, NonNegativeFloat, PositiveFloat
from silofl.strategies._adaptive import Adaptive
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """FedAdagrad (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

    lr: PositiveFloat = 0.1
    """Server learning rate (eta)."""
    beta1: Decay = 0.0
    """Part of the first moment that is kept."""
    tau: PositiveFloat = 1e-3
    """Degree of adaptivity: it is added to the root of the second moment, in units of the update."""
    initial: NonNegativeFloat = 0.0
    """What the root of the second moment begins with."""

    def second(self, before: Vector, square: Vector) -> Vector:
        """v + mean^2."""
        return before + square
