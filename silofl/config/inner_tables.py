"""Tables that are values of keys: schedules of learning rates, and what a run watches of its metrics."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from silofl.config.section import Section
from silofl.constrained import NonNegativeFloat, NonNegativeInt, PositiveInt

LESS = frozenset({
    "loss", "error", "mae", "mse", "rmse", "mape", "msle", "brier", "nll",
    "perplexity", "ppl", "ece", "hinge", "wer", "cer", "deviance", "regret",
})  # fmt: skip
"""Words in names of metrics of which less is better."""
MORE = frozenset({
    "accuracy", "acc", "auc", "auroc", "auprc", "roc", "ap", "map", "f1",
    "r2", "precision", "recall", "sensitivity", "specificity", "c", "cindex", "concordance", "iou",
    "dice", "bleu", "rouge", "kappa", "mcc", "score", "top", "correct", "likelihood",
})  # fmt: skip
"""Words in names of metrics of which more is better, where none is of the former."""

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
    """What is better; unset, as the metric's name says, such as less of `rmse` and more of `auc`."""

    @property
    def higher(self) -> bool | None:
        """Whether more is better; None where nobody knows."""
        if self.mode is not None:
            return self.mode == "max"
        words = set(re.split("[^a-z0-9]+", self.metric.lower()))
        if words & LESS:
            return False
        return True if words & MORE else None


class StopWhen(KeepBest):
    """`run.stop_when`: after how many evaluations without a better metric a run ends."""

    patience: PositiveInt
    """So many."""
    min_delta: NonNegativeFloat = 0.0
    """By how much a value has to be better than the best before."""


def named(value: Any, key: str) -> Any:
    """A text in the place of a table stands for its `key`."""
    return {key: value} if isinstance(value, str) else value
