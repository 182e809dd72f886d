"""CHOCO-SGD: nodes send compressed differences to copies of themselves that neighbours keep."""

from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.constrained import UpToOne
from silofl.mixing.algorithms.base import Algorithm, Mixed, Received, State, Trained, Values

START, COPY, COPIES = "start", "own copy", "copies of neighbours"


@final
@dataclass(frozen=True)
class Choco(Algorithm):
    """CHOCO-SGD (Koloskova, Stich & Jaggi 2019, algorithm 2), with the codec of [compress].

    Of the copies that it would keep of its neighbours a node keeps the weighted sum. Copies begin with the
    model that all nodes begin with, and are kept as differences from it.
    """

    consensus_rate: UpToOne = 0.3
    """gamma: which part of the difference to neighbours' copies a node takes, up to 1; 0.3 when unset. Lower
    it where messages are compressed a lot."""

    compresses = True
    varies = False
    paper = "Koloskova, Stich & Jaggi 2019"

    def init(self, values: Values, parameters: int) -> State:
        """xhat_i = x_i, which all nodes begin with."""
        return {START: values.copy(), COPY: np.zeros_like(values), COPIES: np.zeros_like(values)}

    def renewed(self, state: State, values: Values, parameters: int) -> State:
        """Copies that all have again: what nodes began with."""
        return self.init(state[START], parameters)

    def message(self, state: State, trained: Trained) -> Values:
        """y_i - xhat_i, to be compressed."""
        return np.asarray(trained.values - state[START] - state[COPY])

    def mix(self, state: State, trained: Trained, received: Received) -> Mixed:
        """xhat_j += q_j; x_i = y_i + gamma (sum over j of w_ij xhat_j - xhat_i)."""
        dtype = trained.values.dtype
        own = (state[COPY] + received.own).astype(dtype)
        others = (state[COPIES] + received.total).astype(dtype)
        towards = others - (1.0 - received.weight) * own
        return Mixed(trained.values + self.consensus_rate * towards, {**state, COPY: own, COPIES: others})
