"""Tables that are values of keys: schedules of learning rates, and what a run watches of its metrics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from silofl.config.section import Section
from silofl.constrained import NonNegativeFloat, NonNegativeInt, PositiveInt

ScheduleName = Literal["constant", "cosine", "linear", "step", "one-cycle"]


class Schedule(Section):
    """`train.schedule`: by what learning rates are multiplied, round by round."""

    name: ScheduleName = "constant"
    """Which of them."""
    warm_up: NonNegativeInt = 0
    """First rounds, in which the rate rises; of "one-cycle" the rising part."""
    rounds: PositiveInt | None = None
    """After how many rounds it is over; `run.rounds` when unset."""
    options: dict[str, Any] = {}
    """Further keyword arguments of torch's scheduler, such as {step_size = 10, gamma = 0.1}."""

    @property
    def changes(self) -> bool:
        """Whether any round has another rate than the others."""
        return self.name != "constant" or self.warm_up > 0


class KeepBest(Section):
    """`run.keep_best`: of which round the model is that a run ends with."""

    metric: Annotated[str, Field(min_length=1)]
    """Of the federation's metrics, by name."""
    mode: Literal["max", "min"] | None = None
    """What is better; unset, less of a metric whose name ends in "loss" or "error", else more."""

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        if self.mode is not None:
            return self.mode == "max"
        return not self.metric.lower().endswith(("loss", "error"))


class StopWhen(KeepBest):
    """`run.stop_when`: after how many evaluations without a better metric a run ends."""

    patience: PositiveInt
    """So many."""
    min_delta: NonNegativeFloat = 0.0
    """By how much a value has to be better than the best before."""


def named(value: Any, key: str) -> Any:
    """A text in the place of a table stands for its `key`."""
    return {key: value} if isinstance(value, str) else value
