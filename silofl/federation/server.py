"""This rank's part of the server: slice k of the global model and of the strategy's state."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.strategies.base import Strategy

Vector = NDArray[np.floating[Any]]


class ServerSlice:
    """Owns [start, stop) of the global vector; the first `trainable` values of the whole are parameters.

    Buffers such as BatchNorm statistics lie behind the parameters. They are averaged: the strategy's
    learning rate and momentum do not touch them.
    """

    def __init__(
        self, strategy: Strategy, start: int, stop: int, trainable: int, dtype: np.dtype[np.floating[Any]]
    ) -> None:
        self._strategy, self._start, self._stop = strategy, start, stop
        self._parameters = min(max(trainable - start, 0), stop - start)
        self._state = strategy.init(self._parameters, dtype)

    def step(self, global_vector: Vector, mean: Vector) -> Vector:
        """Change this rank's slice of the global vector in place and return it, ready to be gathered."""
        mine = global_vector[self._start : self._stop]
        self._state = self._strategy.step(self._state, mine[: self._parameters], mean[: self._parameters])
        mine[self._parameters :] += mean[self._parameters :]
        return mine

    def state(self, global_vector: Vector) -> dict[str, Any]:
        """This slice of the model and of the strategy's state."""
        return {"slice": global_vector[self._start : self._stop].copy(), "strategy": dict(self._state)}

    def restore(self, state: dict[str, Any], global_vector: Vector) -> None:
        """Take up an earlier `state`; the other slices of `global_vector` are still to be gathered."""
        global_vector[self._start : self._stop] = state["slice"]
        self._state = state["strategy"]
