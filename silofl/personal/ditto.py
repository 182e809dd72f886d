"""Ditto: a model of each silo's own, trained beside the shared one and held near it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from silofl.constrained import NonNegativeFloat, PositiveFloat, PositiveInt
from silofl.personal.base import Personal, Solver, State
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Ditto(Personal):
    """Ditto (Li et al. 2021, "Ditto: Fair and Robust FL Through Personalization", algorithm 1).

    A silo minimizes f_k(v) + mu/2 ||v - w||^2 beside the federation's own training, w being the global model
    that the round began with. The shared model is as without it.
    """

    mu: NonNegativeFloat = 0.1
    """Weight of the distance to the global model, lambda in the paper; 0 is training alone."""
    epochs: PositiveInt | None = None
    """Of the personal model in each round; steps where `train.full_batch` is set; as [train] when unset."""
    lr: PositiveFloat | None = None
    """Learning rate of the personal model; `train.lr` when unset."""

    effect = "beside"
    adapts = True
    paper = "Li et al. 2021"

    def beside(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """v -= lr * (gradient of f_k at v + mu * (v - w)), from v as it was; the first time from w."""
        if "model" in state:
            solver.load(state["model"])
        center = solver.start[: len(solver.parameters)]
        solver.train_alone(
            lambda gradient, values: gradient.add_(values - center, alpha=self.mu),
            lr=self.lr,
            epochs=self.epochs,
        )
        return {"model": solver.saved()}

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        if "model" in state:
            solver.load(state["model"])
