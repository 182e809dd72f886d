"""pFedMe: personal models are the proximal points of the local ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from silofl.constrained import PositiveFloat, PositiveInt
from silofl.personal.base import Personal, Solver, State, refuse_corrections
from silofl.strategies.base import Strategy
from silofl.types import Vector


@final
@dataclass(frozen=True)
class PFedMe(Personal):
    """pFedMe (Dinh et al. 2020, "Personalized Federated Learning with Moreau Envelopes", algorithm 1).

    With each batch a silo comes near to theta = argmin f_k(theta) + mu/2 ||theta - w||^2, and steps
    w -= train.lr * mu * (w - theta), by the optimizer of [train]. theta is the personal model.
    """

    mu: PositiveFloat = 15.0
    """How strongly theta is held to w, lambda in the paper, whose experiments take 15 to 30."""
    inner_steps: PositiveInt = 5
    """Gradient steps to theta with each batch, K in the paper."""
    inner_lr: PositiveFloat = 0.01
    """Their learning rate."""

    effect = "instead"
    adapts = True
    rates = ("inner_lr",)
    paper = "Dinh et al. 2020"

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """See `Personal`."""
        return refuse_corrections("pfedme", strategy)

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """theta goes on from the batch before, in the first batch from w."""
        theta, w = solver.values.clone(), solver.values.clone()
        size = len(solver.parameters)
        for batch in solver.batches():
            solver.values.copy_(theta)
            for inner in range(self.inner_steps):
                gradient = solver.gradient(batch, report=inner == 0)
                gradient.add_(solver.parameters - w[:size], alpha=self.mu)
                solver.parameters.sub_(gradient, alpha=self.inner_lr)
            theta.copy_(solver.values)
            solver.parameters.copy_(w[:size])  # buffers are as the passes have left them
            solver.step((w[:size] - theta[:size]) * self.mu)
            w.copy_(solver.values)
        solver.values.copy_(theta)
        model = solver.saved()
        solver.values.copy_(w)
        return {"model": model}

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        if "model" in state:
            solver.load(state["model"])
