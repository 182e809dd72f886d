"""Gradient tracking: each node's gradients are corrected towards the mean of all nodes'."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.mixing.algorithms.base import Algorithm, Mixed, Received, State, Trained, Values

CORRECTION = "correction"


@final
@dataclass(frozen=True)
class GradientTracking(Algorithm):
    """K-GT (Liu, Lin, Koloskova & Stich 2023, algorithm 1): of one local step it is gradient tracking.

    Unlike D-PSGD it goes to the minimum of the mean loss however unlike nodes' data are. A message has the
    model and the mean corrected gradient of the round's steps: twice the bytes.
    """

    corrects = True
    needs_rates = True
    paper = "Liu, Lin, Koloskova & Stich 2023"

    def init(self, values: Values, parameters: int) -> State:
        """c_i = 0: corrections of all nodes add up to 0, now and after every round."""
        return {CORRECTION: np.zeros(parameters, values.dtype)}

    def length(self, size: int, parameters: int) -> int:
        """The model, and a gradient of its parameters."""
        return size + parameters

    def message(self, state: State, trained: Trained) -> Values:
        """y_i, and z_i = (x_i - y_i) / (K lr)."""
        count = trained.parameters
        direction = np.zeros(count, trained.values.dtype)
        if trained.distance:
            direction[:] = (trained.start[:count] - trained.values[:count]) / trained.distance
        return np.concatenate([trained.values, direction])

    def mix(self, state: State, trained: Trained, received: Received) -> Mixed:
        """x_i = sum over j of w_ij y_j; c_i += sum over j of w_ij z_j - z_i."""
        size = len(trained.values)
        mean = received.weight * received.own + received.total
        correction = state[CORRECTION] + (mean[size:] - received.own[size:])
        return Mixed(mean[:size], {CORRECTION: correction.astype(state[CORRECTION].dtype)})
