"""FedYogi: FedAvg with Yogi at the server."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.constrained import Decay, NonNegativeFloat, PositiveFloat
from silofl.strategies._adaptive import Adaptive
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FedYogi(Adaptive):
    """FedYogi (Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2)."""

    lr: PositiveFloat = 0.1
    """Server learning rate (eta)."""
    beta1: Decay = 0.9
    """Part of the first moment that is kept."""
    beta2: Decay = 0.99
    """How little the second moment changes at a step: by 1 - beta2 of the squared mean."""
    tau: PositiveFloat = 1e-3
    """Degree of adaptivity: it is added to the root of the second moment, in units of the update."""
    initial: NonNegativeFloat = 0.0
    """What the root of the second moment begins with."""

    def second(self, before: Vector, square: Vector) -> Vector:
        """v - (1 - beta2) mean^2 sign(v - mean^2)."""
        kind = square.dtype.type
        return before - square * kind(1 - self.beta2) * np.sign(before - square)
