"""APFL: a personal model that is mixed with the shared one, by a weight that each silo learns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, final

from pydantic import Field

from silofl.personal.base import Personal, Solver, State, number, refuse_corrections, weight_of
from silofl.strategies.base import Strategy
from silofl.types import Vector


@final
@dataclass(frozen=True)
class APFL(Personal):
    """APFL (Deng et al. 2020, "Adaptive Personalized Federated Learning", algorithm 1).

    Each step trains the shared w by its own gradient, and v by that of the mixture
    alpha * v + (1 - alpha) * w, which is the personal model.
    """

    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of the silo's own model in the mixture; where it begins, if it adapts."""
    adaptive: bool = True
    """Whether the first step of each round moves alpha along its gradient (equation 10)."""

    effect = "instead"
    adapts = True
    paper = "Deng et al. 2020"

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """See `Personal`."""
        return refuse_corrections("apfl", strategy)

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """v -= lr * alpha * g, alpha -= lr * <g, v - w>, g the gradient at the mixture; then w's own step."""
        alpha, w = weight_of(state, "alpha", self.alpha), solver.parameters
        size = len(w)
        own = (solver.tensor(state["model"]) if "model" in state else solver.start).clone()
        v = own[:size]
        for step, batch in enumerate(solver.batches()):
            shared = solver.values.clone()
            _mix(solver, own, alpha)
            gradient = solver.gradient(batch)
            own[size:] = solver.values[size:]  # what the mixture's pass made of buffers is the silo's own
            solver.values.copy_(shared)
            away = v - w
            v -= gradient * (solver.lr * alpha)
            if self.adaptive and step == 0:
                alpha = min(1.0, max(0.0, alpha - solver.lr * float((gradient * away).sum())))
            solver.step(solver.gradient(batch, report=True))
        solver_values = solver.values.clone()
        solver.values.copy_(own)
        model = solver.saved()
        solver.values.copy_(solver_values)
        return {"model": model, "alpha": number(alpha)}

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        if "model" in state:
            _mix(solver, solver.tensor(state["model"]), weight_of(state, "alpha", self.alpha))


def _mix(solver: Solver, own: Any, alpha: float) -> None:
    """Parameters and buffers alpha * v + (1 - alpha) * w, w as loaded."""
    solver.values.mul_(1 - alpha).add_(own, alpha=alpha)
