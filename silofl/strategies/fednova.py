"""FedNova: silos that take unlike numbers of steps bring directions of equal length of path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from silofl.constrained import PositiveFloat
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class FedNova(Strategy):
    """FedNova (Wang et al. 2020, "Tackling the Objective Inconsistency Problem", equations 7 to 10).

    A silo's change is divided by |a|, the sum of the weights that its gradients have in it: the number of its
    steps with plain SGD, and with momentum rho (steps - rho (1 - rho^steps) / (1 - rho)) / (1 - rho).
    """

    lr: PositiveFloat = 1.0
    """Server learning rate: 1 is the paper's choice of tau_eff, the mean of |a|."""

    needs_rates = True
    scalars = ("steps",)

    def refusal(self, train: Any) -> str | None:
        """What weights gradients have in the change is known of plain SGD and of momentum."""
        options = train.options
        rules = [
            (train.optimizer != "SGD", "optimizer", train.optimizer, "'SGD'"),
            *((options.get(key), f"options.{key}", options.get(key), "unset") for key in _UNKNOWN),
            (train.momentum and train.keep_optimizer, "keep_optimizer", True, "false"),
        ]
        for wrong, key, value, remedy in rules:
            if wrong:
                return (
                    "strategy.name = 'fednova' divides by the weights that SGD gives to gradients, and "
                    f"train.{key} = {value!r} gives others: set it to {remedy}"
                )
        return None

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """model += lr * tau_eff * mean, where tau_eff is the mean of |a|."""
        model = shared["model"]
        model += total.mean["update"] * model.dtype.type(self.lr * total.scalars["steps"])
        return state

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """The change divided by |a|, and |a|."""
        length = path(steps, local.momentum)
        trained -= local.shared["model"]
        trained *= trained.dtype.type(1 / length)
        return Contribution({"update": trained}, {"steps": length}), dict(local.state)


_UNKNOWN = ("momentum", "dampening", "nesterov", "maximize")


def path(steps: int, momentum: float) -> float:
    """|a|: the sum of weights that so many gradients have in what SGD makes of them, over its rate."""
    rest = momentum * (1 - momentum**steps) / (1 - momentum)
    return (steps - rest) / (1 - momentum)
