"""FedRep: a shared representation, and a head of each silo's own that is trained before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from silofl.constrained import Names, PositiveInt
from silofl.personal.base import Personal, Solver, State
from silofl.strategies.base import Strategy
from silofl.types import Vector


@final
@dataclass(frozen=True)
class FedRep(Personal):
    """FedRep (Collins et al. 2021, "Exploiting Shared Representations for Personalized FL", algorithm 1).

    In each round a silo trains its head with the body held, then the body with the head held.
    """

    layers: Names = ()
    """Patterns (fnmatch) of the names of the head's parameters and buffers, such as ["head.*"]."""
    head_epochs: PositiveInt = 1
    """Epochs of the head in each round, steps where `train.full_batch` is set."""

    effect = "part"
    needs_layers = True
    paper = "Collins et al. 2021"

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """See `Personal`."""
        if not train.keep_optimizer:
            return None
        return (
            'personal.name = "fedrep" begins optimizers of head and body anew in each round, and '
            "train.keep_optimizer = true keeps one: remove it"
        )

    def private(self, module: Any) -> tuple[str, ...]:
        """See `Personal`."""
        return self.layers

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """See `Personal`."""
        solver.train_alone(epochs=self.head_epochs, part="private")
        solver.train(part="shared")
        return dict(state)
