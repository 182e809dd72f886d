"""Time to an event, which may be censored: a hazard for each interval of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.heads.base import Agreement, Counted, Floats, Head, Labels, precise, target_names
from silofl.tasks.heads.multilabel import ZERO_OR_ONE
from silofl.tasks.heads.weights import refuse_idle_keys
from silofl.tasks.readers.target_column import CellRule
from silofl.tasks.scaling import first_sums, mean_of, second_sums
from silofl.tasks.target_recipe import TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric

MOST = 50
"""Intervals: pairs are counted in a table of time by risk, which is one state of a metric."""
_BINS = 512
"""Of times of events, between 0 and four deviations above their mean."""
_NEGATIVE = CellRule("negative time(s)", lambda x: x < 0)


@final
@dataclass(frozen=True)
class SurvivalHead(Head):
    """Outputs are logits (batch, intervals) of the hazard in each interval, given survival up to it.

    The model and loss of Gensheimer and Narasimhan 2019, "A scalable discrete-time survival model for neural
    networks", equation 3, also called logistic hazard (Kvamme and Borgan 2021): negative log-likelihood, in
    which a record has a part in each interval that it survived and in that of its event. Interval k ends at
    `recipe.ends[k]`, and has its end. A censored record survived an interval whose middle it reached; what
    happens after the last end counts as survival up to it.

    Targets are int64 (batch, 3): intervals that were survived; 1 for an event, else 0; the interval of the
    time, as many as there are intervals for later ones.
    """

    intervals: int = 0
    """How many."""
    columns: tuple[str, ...] = ("time", "event")
    """Of the target."""
    kind: ClassVar[str] = "survival"

    @classmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """See `Head`."""
        refuse_idle_keys(task, cls.kind, ("classes", "labels", "class_weights"))
        names, intervals = target_names(data), task.intervals
        if len(names) != 2 or names[0] == names[1]:
            raise ConfigError(
                f"data.target = {data.target} has {len(names)} column(s), and task.head = 'survival' learns "
                'of two, a time and whether an event ended it (1) or not (0): set target = ["time", "event"]'
            )
        if intervals is None:
            raise ConfigError(
                "task.head = 'survival' needs intervals of time: set task.intervals to their ends, such as "
                "[90, 180, 365], or to how many there are to be, by the events of all silos"
            )
        ends = tuple(map(float, intervals)) if isinstance(intervals, list) else ()
        many = len(ends) if isinstance(intervals, list) else intervals
        if not 1 <= many <= MOST or list(ends) != sorted(set(ends)):
            raise ConfigError(
                f"task.intervals = {intervals} are not 1 to {MOST} intervals with ascending ends: correct it"
            )
        return cls(agrees=not ends, intervals=many, columns=names).with_recipe(TargetRecipe(ends=ends))

    @property
    def outputs(self) -> int:
        """See `Head`."""
        return self.intervals

    def with_recipe(self, recipe: TargetRecipe) -> Self:
        """See `Head`; outputs are named by the ends."""
        return replace(self, recipe=recipe, names=tuple(f"{end:.9g}" for end in recipe.ends))

    def rules(self, place: int) -> Sequence[CellRule]:
        """See `Head`."""
        return (ZERO_OR_ONE,) if place else (_NEGATIVE,)

    def agreement(self, labels: Labels) -> Agreement:
        """See `Head`: ends by quantiles of the times of events, from a histogram over all silos."""
        times = labels[labels[:, 1] > 0, :1]
        first = yield first_sums(times)
        mean = mean_of(first)
        second = yield second_sums(times, mean)
        count, spread = max(first[0], 1.0), float(np.sqrt(max(second[-1], 0.0) / max(first[0], 1.0)))
        largest = float(mean[0]) + 4 * spread
        if not (first[0] >= 1 and np.isfinite(largest) and largest > 0):
            raise _too_few(self.intervals)
        edges = np.linspace(0, largest, _BINS + 1)
        counts = yield np.histogram(np.clip(times, 0, largest), edges)[0].astype(np.float64)
        wanted = count * np.arange(1, self.intervals + 1) / self.intervals
        places = np.searchsorted(np.cumsum(counts), wanted - 0.5)
        ends = [float(f"{end:.4g}") for end in edges[np.minimum(places, _BINS - 1) + 1].tolist()]
        if len(set(ends)) < self.intervals or not min(ends) > 0:
            raise _too_few(self.intervals)
        return TargetRecipe(ends=tuple(ends))

    def describe(self) -> str:
        """See `Head`."""
        by = "by the events of all silos" if self.agrees else f"up to {', '.join(self.names)}"
        return f"time to an event, in {self.intervals} intervals {by}"

    def absent(self, labels: Labels) -> list[str]:
        """That there is no event."""
        return [] if labels[:, 1].any() else ["no record has an event"]

    def numbers(self, labels: Labels) -> Mapping[str, Floats]:
        """The time."""
        return {self.columns[0]: labels[:, 0]}

    def least(self, name: str) -> float:
        """See `Head`."""
        return 0.0

    def counted(self, labels: Labels) -> Sequence[Counted]:
        """Events, and records that are censored."""
        return [Counted(self.columns[1], ("0", "1"), labels[:, 1].astype(np.intp))]

    def targets(self, labels: Labels) -> Tensor:
        """See above."""
        import torch

        time, event = labels[:, 0], labels[:, 1] > 0
        ends = np.array(self.recipe.ends)
        middles = (np.append(0.0, ends[:-1]) + ends) / 2
        place = np.searchsorted(ends, time, side="left")
        survived = np.where(event, place, np.searchsorted(middles, time, side="right"))
        event &= place < len(ends)
        return torch.from_numpy(np.column_stack([survived, event, place]).astype(np.int64))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See above: -log of the likelihood of what happened to each record."""
        import torch
        from torch.nn import functional

        logits = precise(outputs)
        survived, event = targets[:, :1], targets[:, 1:2]
        intervals = torch.arange(logits.shape[1], device=logits.device)
        failed = (intervals == survived) & (event > 0)
        each = functional.binary_cross_entropy_with_logits(logits, failed.to(logits.dtype), reduction="none")
        return (each * ((intervals < survived) | failed).to(logits.dtype)).sum(dim=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """`c_index`: of pairs of records of all silos, by intervals of time."""
        from silofl.tasks.metrics import concordance

        risk = 1 - _survival(precise(outputs).double()).mean(dim=1)
        return {"c_index": concordance(risk, targets[:, 2], targets[:, 1], outputs.shape[1])}

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Of survival beyond the end of each interval."""
        import torch

        found: NDArray[Any] = _survival(torch.from_numpy(outputs)).numpy()
        return found

    def decided(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """A risk from 0 to 1: one less the mean of `probabilities`."""
        return np.asarray(1 - self.probabilities(outputs).mean(axis=1))

    def told(self, outputs: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
        """The risk, and survival beyond each end."""
        each = zip(self.named(outputs.shape[1]), self.probabilities(outputs).T, strict=True)
        return [("risk", self.decided(outputs)), *((f"survival {name}", column) for name, column in each)]


def _survival(logits: Tensor) -> Tensor:
    """Products of 1 - hazard, (batch, intervals)."""
    from torch.nn import functional

    return functional.logsigmoid(-logits).cumsum(dim=1).exp()


def _too_few(intervals: int) -> DataError:
    return DataError(
        f"task.intervals = {intervals}: the events of all silos' training records have too few different "
        "times for so many intervals: set fewer, or their ends",
        rank=0,
    )
