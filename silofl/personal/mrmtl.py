"""MR-MTL: every silo trains a model of its own, held near the mean of all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from silofl.constrained import NonNegativeFloat
from silofl.personal.base import Personal, Solver, State, refuse_corrections
from silofl.strategies.base import Strategy
from silofl.types import Vector


@final
@dataclass(frozen=True)
class MRMTL(Personal):
    """Mean-regularized multi-task learning (Liu et al. 2022, "On Privacy and Personalization in Cross-Silo
    Federated Learning", section 4).

    A silo trains v_k from where its last round has left it, by f_k(v) + mu/2 ||v - w||^2; the global model w
    is the mean of all v_k. mu = 0 is training alone.
    """

    mu: NonNegativeFloat = 0.1
    """Weight of the distance to the mean, lambda in the paper."""

    effect = "instead"
    adapts = True
    paper = "Liu et al. 2022"

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """See `Personal`."""
        return refuse_corrections("mrmtl", strategy)

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """v -= lr * (gradient of f_k at v + mu * (v - w))."""
        if "model" in state:
            solver.load(state["model"])
        center = solver.start[: len(solver.parameters)]
        for batch in solver.batches():
            gradient = solver.gradient(batch, report=True)
            solver.step(gradient.add_(solver.parameters - center, alpha=self.mu))
        return {"model": solver.saved()}

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        if "model" in state:
            solver.load(state["model"])
