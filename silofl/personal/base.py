"""What a personal method is: what a silo keeps for itself, how it trains, and which model it ends with.

`federation/silo.py` calls `fit` in place of its own local training, then `beside`, and `adapt` where the
personal model is evaluated or written. A method is one file of this folder: a final frozen dataclass whose
fields are the keys of [personal].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from silofl.strategies.base import Strategy
from silofl.types import Vector

State = dict[str, Vector]
"""Arrays by name; they lie in the silo's own checkpoint as they are."""

Values = Any
"""A torch tensor; in-place arithmetic is enough."""

Correct = Callable[[Values, Values], None]
"""Changes a step's gradient (P,) in place, at the parameters (P,)."""

Part = Literal["all", "shared", "private"]
"""Which parameters train: all, those that silos share, or those that stay with the silo."""


class Solver(Protocol):
    """By what a method trains: the silo's model and samples, and [train]. All vectors are on its device.

    Attributes:
        values: the shared values (d,) as they are now, parameters before buffers: a view of the model.
        parameters: its first P values: a view as well.
        start: (d,) the global model; not to be changed.
        lr: `train.lr`.
    """

    lr: float

    @property
    def values(self) -> Values:
        """See above."""

    @property
    def parameters(self) -> Values:
        """See above."""

    @property
    def start(self) -> Values:
        """See above."""

    def train(self, *, part: Part = "all") -> None:
        """The local steps of [train] from the values as they are, corrected by the strategy.

        Loss and steps of all calls together are what the round reports.
        """

    def train_alone(
        self,
        correct: Correct | None = None,
        *,
        lr: float | None = None,
        epochs: int | None = None,
        part: Part = "all",
        stream: int = 1,
    ) -> None:
        """Local steps by an optimizer of their own, begun anew, that the round does not report.

        Args:
            correct: changes gradients.
            lr: None: `train.lr`.
            epochs: None: as many epochs or steps as [train] says.
            part: which parameters train.
            stream: steps of another number see the samples in another order.
        """

    def batches(self, stream: int = 0) -> Iterator[Any]:
        """The batches of a round by [train]; another stream has others, as many."""

    def gradient(self, batch: Any, *, report: bool = False, choice: int | None = None) -> Values:
        """The gradient (P,) at the values as they are, after `train.clip_norm`: a new tensor.

        With `report` its loss is one of those that the round reports, and a step is counted. Gradients of one
        `choice` in a round have the same random choices, such as what dropout drops.
        """

    def step(self, gradient: Values) -> None:
        """A step of the optimizer of [train] along a gradient (P,)."""

    def tensor(self, values: Vector) -> Values:
        """An array as a tensor of the model's type on its device."""

    def saved(self) -> Vector:
        """A copy of the values (d,), for a state."""

    def load(self, values: Vector) -> None:
        """Set the values to those of a state, (d,)."""


@dataclass(frozen=True)
class Personal:
    """A personal method. The base trains the shared model, and keeps nothing."""

    effect: ClassVar[Literal["none", "part", "beside", "instead"]] = "none"
    """What it does to local training: nothing; it keeps part of the model with its silo; it trains a model
    beside the shared one, which is as without it; or local steps are the method's own."""

    adapts: ClassVar[bool] = False
    """Whether the personal model is another than the shared one with the silo's private parts."""

    needs_layers: ClassVar[bool] = False
    """Whether it has a key `layers` that has to name something."""

    keeps_norms: ClassVar[bool] = False
    """Whether batch normalization is among what stays with a silo."""

    rates: ClassVar[tuple[str, ...]] = ()
    """Its keys that are learning rates of the shared work, besides `train.lr`."""

    paper: ClassVar[str] = ""
    """Where it is from."""

    def refusal(self, train: Any, strategy: Strategy) -> str | None:
        """Why it cannot go with [train] and a strategy, naming key, value and remedy; None where it can."""
        return None

    def private(self, module: Any) -> tuple[str, ...]:
        """Patterns (fnmatch) of the parameters and buffers of a torch module that stay with the silo.

        Raises ConfigError where the module has nothing that the method needs.
        """
        return ()

    def fit(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """A round's local training from the global model; the silo's next state.

        What is shared is made of the parameters and buffers that it leaves.
        """
        solver.train()
        return dict(state)

    def beside(self, solver: Solver, state: Mapping[str, Vector]) -> State:
        """What a silo does after that for itself alone; its next state. The model is put back afterwards."""
        return dict(state)

    def adapt(self, solver: Solver, state: Mapping[str, Vector]) -> None:
        """Turn the global model, which is loaded, into the personal one. It is put back afterwards."""


def weight_of(state: Mapping[str, Vector], name: str, default: float) -> float:
    """A number of a state."""
    return float(state[name][0]) if name in state else default


def number(value: float) -> Vector:
    """A number for a state."""
    return np.array([value], np.float64)


def refuse_corrections(name: str, strategy: Strategy) -> str | None:
    """Why a method whose local steps are its own does not go with what corrects or replaces them."""
    kind = type(strategy)
    own = kind.correct is not Strategy.correct or kind.local_init is not Strategy.local_init
    own = own or strategy.streaming() is not None
    if strategy.local == "train" and not own:
        return None
    return (
        f'personal.name = "{name}" has local steps of its own, and so has strategy.name = '
        f'"{kind.__module__.rpartition(".")[2]}": set strategy.name = "fedavg"'
    )
