"""Streaming DiLoCo: outer steps of one fragment of the model at a time, while local models go on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from silofl.constrained import Decay, NonNegativeInt, PositiveFloat, PositiveInt
from silofl.strategies._momentum import stepped, velocity
from silofl.strategies.base import State, Strategy, Streaming
from silofl.types import Total, Vector


@final
@dataclass(frozen=True)
class StreamingDiLoCo(Strategy):
    """Streaming DiLoCo (Douillard et al. 2025, "Streaming DiLoCo with overlapping communication").

    The model is cut into `fragments` of whole tensors, in its order (the paper's sequential pattern), as
    equally long as that allows. A round is H / F of the paper's steps (`train.steps`) and sums one fragment,
    the next one in turn, and buffers. Each silo's local model goes on from round to round, and takes up a
    fragment that was summed as alpha * local + (1 - alpha) * shared. With one fragment, no delay and alpha 0
    it is DiLoCo. Metrics and model.safetensors are of the shared model. Moments of the paper's AdamW go on,
    too: `train.keep_optimizer = true`.

    With a `delay` the sum goes on while the last steps of its round are taken. Of a model with buffers, which
    every step changes, it begins after them, and what is computed of the parameters is the same.
    """

    fragments: PositiveInt = 2
    """How many parts the model is summed in, one a round; at most as many as it has tensors to train."""
    delay: NonNegativeInt = 0
    """tau: how many local steps before the end of a round its fragment is taken for the sum, fewer than
    `train.steps`."""
    alpha: Decay = 0.0
    """The local model's part where it takes up what was summed, below 1: 0 takes the shared values as they
    are, and 1 would take none of them."""
    lr: PositiveFloat = 0.7
    """Outer learning rate. Over many rounds a step counts lr / (1 - momentum) times, 7 times as it stands:
    local rates are to be small."""
    momentum: Decay = 0.9
    """Outer momentum, of each fragment by itself."""

    sends = {"update": "uniform"}  # noqa: RUF012 - the base declares it

    def refusal(self, train: Any) -> str | None:
        """A delay counts back from the last of a known number of steps."""
        if not self.delay:
            return None
        why = f"strategy.delay = {self.delay} counts local steps back from a round's last one"
        if train.seconds is not None:
            return f"{why}, which train.seconds = {train.seconds} leaves open: remove it, or the delay"
        if train.steps is None:
            return f"{why}, and train.steps does not say how many there are: set it"
        if self.delay >= train.steps:
            return f"{why}, and train.steps = {train.steps} is no more than that: lower the delay"
        return None

    def streaming(self) -> Streaming:
        """Fragments, delay and alpha."""
        return Streaming(self.fragments, self.delay, self.alpha)

    def init(self, size: int, dtype: np.dtype[Any]) -> State:
        """Velocity, of a slice of one fragment."""
        return velocity(size, dtype, self.momentum)

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += lr * (mean + momentum * v), where v = momentum * v + mean."""
        model, mean = shared["model"], total.mean["update"]
        return stepped(state, model, mean, self.lr, self.momentum, nesterov=True)
