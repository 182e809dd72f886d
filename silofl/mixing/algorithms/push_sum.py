"""Push-sum: means over directed graphs, by a weight that travels with the values."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.mixing.algorithms.base import Algorithm, Mixed, Received, State, Trained, Values
from silofl.mixing.graphs.base import Edges
from silofl.mixing.mixing_matrices import Weights, column_stochastic

BIASED, WEIGHT = "biased", "weight"


@final
@dataclass(frozen=True)
class PushSum(Algorithm):
    """Stochastic gradient push (Assran et al. 2019), for graphs with any edges in one direction."""

    balanced = False
    paper = "Assran et al. 2019"

    def weights(self, edges: Edges) -> Weights:
        """Each node sends all that it has, in equal parts."""
        return column_stochastic(edges)

    def init(self, values: Values, parameters: int) -> State:
        """x_i = z_i and w_i = 1."""
        return {BIASED: values.copy(), WEIGHT: np.ones(1, values.dtype)}

    def length(self, size: int, parameters: int) -> int:
        """The values and the weight."""
        return size + 1

    def message(self, state: State, trained: Trained) -> Values:
        """x_i and the change of local steps, which began with z_i = x_i / w_i; and w_i."""
        return np.concatenate([state[BIASED] + (trained.values - trained.start), state[WEIGHT]])

    def mix(self, state: State, trained: Trained, received: Received) -> Mixed:
        """x_i = sum over j of p_ij x_j, likewise w_i; z_i = x_i / w_i."""
        every = (received.weight * received.own + received.total).astype(trained.values.dtype)
        return Mixed(every[:-1] / every[-1], {BIASED: every[:-1].copy(), WEIGHT: every[-1:].copy()})
