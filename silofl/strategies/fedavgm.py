"""FedAvgM: FedAvg whose server keeps a momentum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import Decay, PositiveFloat
from silofl.strategies._momentum import stepped, velocity
from silofl.strategies.base import State, Strategy
from silofl.types import Total, Vector


@final
@dataclass(frozen=True)
class FedAvgM(Strategy):
    """FedAvgM (Hsu et al. 2019, "Measuring the Effects of Non-Identical Data Distribution", section 4.3).

    FedAvg with momentum by its paper's name and with its paper's 0.9.
    """

    lr: PositiveFloat = 1.0
    """Server learning rate. Over many rounds a step counts lr / (1 - momentum) times: where FedAvg trains
    well, 1 - momentum keeps its pace, and 1 may diverge."""
    momentum: Decay = 0.9
    """Part of the server's last step that the next one keeps."""

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Velocity."""
        return velocity(size, dtype, self.momentum)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += lr * v, where v = momentum * v + mean."""
        return stepped(state, shared["model"], total.mean["update"], self.lr, self.momentum)
