"""D-PSGD: train, then take the weighted mean of one's own model and the neighbours'."""

from dataclasses import dataclass
from typing import final

from silofl.mixing.algorithms.base import Algorithm, Mixed, Received, State, Trained


@final
@dataclass(frozen=True)
class DPSGD(Algorithm):
    """Decentralized parallel SGD (Lian et al. 2017), with local steps before each mean."""

    paper = "Lian et al. 2017"

    def mix(self, state: State, trained: Trained, received: Received) -> Mixed:
        """x_i = sum over j of w_ij y_j."""
        return Mixed(received.weight * received.own + received.total)
