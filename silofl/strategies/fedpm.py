"""FedPM: silos learn which weights of a network that nobody trains are kept, and send a bit for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, ClassVar, final

import numpy as np

from silofl.constrained import Decay, MaskFloor, PositiveFloat
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector, Weighting


@final
@dataclass(frozen=True)
class FedPM(Strategy):
    """FedPM (Isik et al. 2023, "Sparse Random Networks for Communication-Efficient Federated Learning").

    Weights are random and stay so; what is learnt is with which probability each is there. In each local step
    a mask is drawn, and the gradient of the masked network goes to scores, of which probabilities are the
    sigmoid, as if drawing changed nothing (straight-through). A silo sends one mask, drawn after its last
    step: ones and zeros, of which silos' plain mean is the next probability, whatever their samples. Under
    a secure sum masks are counted exactly, in the fewest bits of 1, 2, 4 and 8 that hold the number of
    silos, up and down. The shared model is the mean network, weights times their probabilities: that is
    evaluated, and that is in model.safetensors, so that it is used like any other.

    Weights of tensors of two dimensions and more have one magnitude, gain * sqrt(2 / fan-in), and the sign
    of the untrained model, or a drawn one where that is zero; others are the untrained model's. Set
    train.optimizer = "Adam" and a large train.lr, such as 0.1, which is that of the scores.
    """

    gain: PositiveFloat = 1.0
    """Of the weights' magnitude; 1.4 makes up for half of them missing."""
    memory: Decay = 0.0
    """How much of a probability stays in each round; 0 is the paper's, where few silos give few values."""
    floor: MaskFloor = 0.02
    """Local training begins with probabilities no nearer to 0 and 1, where scores would not move."""

    shared = ("model", "network")
    sends: ClassVar[Mapping[str, Weighting]] = {"update": "uniform"}
    masks = frozenset({"update"})
    local = "masks"

    def refusal(self, train: Any) -> str | None:
        """Values of the model's type would round its masked weights and scores."""
        if train.dtype != "bfloat16":
            return None
        return (
            'strategy.name = "fedpm" trains scores, which train.dtype = "bfloat16" would round to few '
            'values: set train.dtype = "float32"'
        )

    def begin(self, tensors: Sequence[Vector]) -> Mapping[str, Vector]:
        """The network, and each of its weights with probability 1/2."""
        network = np.concatenate([self._weights(one).reshape(-1) for one in tensors])
        return {"model": network * network.dtype.type(0.5), "network": network}

    def _weights(self, drawn: Vector) -> Vector:
        if drawn.ndim < 2:
            return drawn
        size = self.gain * sqrt(2 / max(1, prod(drawn.shape[1:])))
        signs = np.where(drawn < 0, -1, 1)
        if not drawn.all():  # zeros would be no weights, whatever their probability
            signs = np.where(
                drawn == 0, np.random.default_rng(drawn.size).choice([-1, 1], drawn.shape), signs
            )
        return np.asarray(signs * drawn.dtype.type(size), drawn.dtype)

    def probabilities(self, local: LocalRound) -> Vector:
        """With which weights are there as a round begins, (d,), within the floor."""
        model, network = local.shared["model"], local.shared["network"]
        half = np.full_like(model, 0.5)
        found = np.divide(model, network, out=half, where=network != 0)
        clipped: Vector = np.clip(found, self.floor, 1 - self.floor, dtype=found.dtype)
        return clipped

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model = network * mean of masks; with `memory` in part."""
        kind, model = shared["model"].dtype.type, shared["model"]
        found = shared["network"] * total.mean["update"]
        if self.memory:
            found = kind(self.memory) * model + kind(1 - self.memory) * found
        model[...] = found
        return state

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The mask that was drawn after the last step, (d,) of ones and zeros."""
        return Contribution({"update": trained}), dict(local.state)
