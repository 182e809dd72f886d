"""Per-FedAvg: a shared model from which one step leads to a good personal one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from silofl.constrained import PositiveFloat, PositiveInt
from silofl.personal.base import Personal, Solver, State, refuse_corrections
from silofl.strategies.base import Strategy
from silofl.types import Vector


@final
@dataclass(frozen=True)
class PerFedAvg(Personal):
    """Per-FedAvg (Fallah et al. 2020, "Personalized FL: A Meta-Learning Approach", algorithm 1, section 5).

    Silos descend the loss after one step of theirs, f_k(w - inner_lr * gradient of f_k at w), each step with
    three independent batches; the Hessian in its gradient is left out ("first-order"), or found from two more
    gradients ("hessian-free"). The personal model is the global one after `adapt_steps` such steps.
    """

    variant: Literal["first-order", "hessian-free"] = "first-order"
    """FO or HF."""
    inner_lr: PositiveFloat = 0.01
    """Length of the step to the personal model, alpha in the paper."""
    difference: PositiveFloat = 1e-3
    """How far apart the two gradients of "hessian-free" are taken, delta in the paper."""
    adapt_steps: PositiveInt = 1
    """Steps from the global to the personal model."""

    effect = "instead"
    adapts = True
    rates = ("inner_lr",)
    paper = "Fallah et al. 2020"

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """See `Personal`."""
        return refuse_corrections("perfedavg", strategy)

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """w -= train.lr * (1 - alpha * Hessian of f_k at w) * gradient of f_k at the stepped w."""
        w = solver.parameters
        streams = zip(solver.batches(), solver.batches(1), solver.batches(2), strict=False)
        for step, (inner, outer, third) in enumerate(streams):
            before = w.clone()
            w.sub_(solver.gradient(inner, report=True), alpha=self.inner_lr)
            meta = solver.gradient(outer)
            if self.variant == "hessian-free":
                w.copy_(before).add_(meta, alpha=self.difference)
                ahead = solver.gradient(third, choice=step)  # else a difference of choices is divided
                w.copy_(before).sub_(meta, alpha=self.difference)
                ahead -= solver.gradient(third, choice=step)
                meta.sub_(ahead, alpha=self.inner_lr / (2 * self.difference))
            w.copy_(before)
            solver.step(meta)
        return dict(state)

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """See `Personal`."""
        for _, batch in zip(range(self.adapt_steps), _again(solver), strict=False):
            solver.parameters.sub_(solver.gradient(batch), alpha=self.inner_lr)


def _again(solver: Solver) -> Any:
    while True:
        yield from solver.batches(3)
