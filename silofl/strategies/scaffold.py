"""SCAFFOLD: local steps without the drift that differs from silo to silo."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from silofl.constrained import PositiveFloat
from silofl.strategies._plain_sgd import unlike_plain_sgd
from silofl.strategies.base import AtStart, LocalRound, State, Strategy, Values
from silofl.types import Contribution, Total, Vector


@final
@dataclass(frozen=True)
class Scaffold(Strategy):
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1).

    Each silo keeps a control variate c_i, what its gradient was in its last round, and all share c, the mean
    of c_i over all silos, present or not. Silos count equally, however many samples they have.
    """

    lr: PositiveFloat = 1.0
    """Server learning rate."""
    option: Literal["I", "II"] = "II"
    """What c_i becomes: "I" the gradient of all the silo's samples at the shared model, which costs a pass
    over them and goes with any optimizer; "II" the mean gradient on the way of the round."""

    needs_rates = True
    shared = ("model", "control")
    sends = {"update": "uniform", "control": "uniform"}  # noqa: RUF012 - the base declares it

    def refusal(self, train: Any) -> str | None:
        """Option II takes x - y for K * lr times the mean gradient, which holds for plain SGD.

        Option I takes the gradient itself, however steps are made of it.
        """
        if self.option == "I":
            return None
        found = unlike_plain_sgd(train)
        if found is None:
            return None
        key, value, remedy = found
        return (
            "strategy.name = 'scaffold' takes the change of the model over train.lr for a sum of "
            f"gradients, as plain SGD makes it; train.{key} = {value!r} does not: set it to {remedy}"
            ", or strategy.option to 'I'"
        )

    def at_start(self) -> AtStart:
        """Option I needs the gradient there."""
        return "gradient" if self.option == "I" else "nothing"

    def step(self, state: State, shared: Mapping[str, Vector], total: Total) -> State:
        """x += lr * mean(y_i - x); c += |S| / N * mean(c_i+ - c_i).

        A silo that came back with an older c_i would leave a bias in c that never goes away. If it alone sent
        the correction, that would show its part of the sum, so all send c_i+ once, and c is their mean.
        """
        model, control = shared["model"], shared["control"]
        model += total.mean["update"] * model.dtype.type(self.lr)
        if total.resync:
            control[...] = total.mean["control"]
        else:
            control += total.mean["control"] * control.dtype.type(total.silos / total.all_silos)
        return state

    def local_init(self, size: int, dtype: np.dtype[Any]) -> State:
        """c_i = 0."""
        return {"control": np.zeros(size, dtype)}

    def correct(self, gradient: Values, values: Values, local: LocalRound) -> None:
        """gradient += c - c_i."""
        gradient += local.shared["control"]
        gradient -= local.state["control"]

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """c_i+ by option I is the gradient at x, by option II c_i - c + (x - y) / (K * lr).

        Sends y - x and c_i+ - c_i, or c_i+ when all resynchronize.
        """
        trained -= local.shared["model"]
        if self.option == "I":
            control = local.start_gradient.copy()
        else:
            control = local.state["control"] - local.shared["control"]
            control -= trained * trained.dtype.type(1 / (steps * local.lr))
        change = control.copy() if local.resync else control - local.state["control"]
        return Contribution({"update": trained, "control": change}), {"control": control}
