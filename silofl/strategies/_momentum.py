"""Momentum of a server's step, as torch.optim.SGD has it."""

from __future__ import annotations

import numpy as np

from silofl.strategies.base import State
from silofl.types import Vector


def velocity(size: int, dtype: np.dtype[np.floating], momentum: float) -> State:
    """The state (size,) that a slice begins with: none without momentum."""
    return {"velocity": np.zeros(size, dtype)} if momentum else {}


def stepped(
    state: State, model: Vector, direction: Vector, lr: float, momentum: float, *, nesterov: bool = False
) -> State:
    """model += lr v in place, where v = momentum v + direction; the next state.

    Nesterov's step is lr (direction + momentum v) instead (Sutskever et al. 2013, in torch's form).
    """
    kind = model.dtype.type
    if not momentum:
        model += direction if lr == 1.0 else direction * kind(lr)
        return state
    kept = state["velocity"] * kind(momentum) + direction
    way = direction + kept * kind(momentum) if nesterov else kept
    model += way * kind(lr)
    return {"velocity": kept}
