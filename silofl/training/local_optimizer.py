"""A silo's optimizer from round to round: that of [train] or its task's own, with the round's rates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor

from silofl.config import TrainConfig
from silofl.errors import ConfigError
from silofl.tasks.base import OptimizingTask, Task
from silofl.tasks.user_code import UserCode
from silofl.training.flat import FlatModel
from silofl.training.optimizers import needs_closure, new_optimizer, optimizer_kind
from silofl.training.own_optimizers import OwnOptimizers, own_optimizers
from silofl.training.schedules import RoundSchedule
from silofl.training.unmarked import leave_unmarked

_FIRST = "initial_lr"
"""Torch's name, among a group's keys, for the rate that schedules multiply."""


@final
class LocalOptimizer:
    """What steps the model's parameters. Made when it is first needed: torch loads much for the first one.

    Args:
        task: may have optimizers of its own.
        model: what is stepped.
        config: [train].
        schedule: of the rates.
        code: calls the task.

    Raises ConfigError where [train] names no optimizer.
    """

    def __init__(
        self, task: Task, model: FlatModel, config: TrainConfig, schedule: RoundSchedule, code: UserCode
    ) -> None:
        self._task, self._model, self._config, self._code = task, model, config, code
        self.schedule = schedule
        optimizer_kind(config)
        self._made: torch.optim.Optimizer | None = None

    @property
    def current(self) -> torch.optim.Optimizer:
        """The one that steps."""
        if self._made is None:
            self._made = self.new()
        return self._made

    def new(self, only: Sequence[Tensor] | None = None) -> torch.optim.Optimizer:
        """Another, over some or all trained parameters. ConfigError where there is none such."""
        if not isinstance(self._task, OptimizingTask):
            return new_optimizer(self._model, self._config, only)
        leave_unmarked()
        with self._calling():
            given = self._task.optimizers(self._model.module)
        made = own_optimizers(given, self._model, self._code.silo, self._calling)
        if made.schedulers and self.schedule.changes:
            raise ConfigError(
                f"silo {self._code.silo}: the task's optimizers(model) has schedulers, and train.schedule "
                "is set as well, so that both would set rates: remove one of them",
                rank=self._code.silo,
            )
        for part in made.parts:
            if needs_closure(type(part)):
                raise ConfigError(
                    f"silo {self._code.silo}: the task's optimizers(model) has a {type(part).__name__}, "
                    "which evaluates the loss several times in a step, by a closure: choose another, or "
                    "write the loop in fit(model, data, round)",
                    rank=self._code.silo,
                )
        return made

    @contextmanager
    def _calling(self) -> Iterator[None]:
        with self._code.calling("optimizers", getattr(self._task, "optimizers", None)):
            yield

    def begin(self, round_number: int, only: Sequence[Tensor] | None = None) -> None:
        """Turn to a round: state anew, unless `train.keep_optimizer` is set, and the round's rates."""
        keep = self._config.keep_optimizer
        if isinstance(self._task, OptimizingTask):
            current = self.current
            assert isinstance(current, OwnOptimizers), "made of what the task returned"
            current.begin(round_number, keep=keep)
        elif not keep:
            self._made = self.new(only)
        if self.schedule.changes:
            self._set_rates(self.schedule.factor(round_number))

    def _set_rates(self, factor: float) -> None:
        optimizer: Any = self.current
        for part in getattr(optimizer, "parts", (optimizer,)):
            for group in part.param_groups:
                group["lr"] = group.setdefault(_FIRST, group["lr"]) * factor

    def forget(self) -> None:
        """Begin the state anew, such as after values that were not finite."""
        if isinstance(self._made, OwnOptimizers):
            self._made.forget()
        else:
            self._made = None

    def state(self) -> dict[str, Any]:
        """What is kept from round to round; empty where nothing is."""
        if self._config.keep_optimizer:
            return self.current.state_dict()
        return self._made.progress() if isinstance(self._made, OwnOptimizers) else {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up an earlier `state()`."""
        if state:
            self.current.load_state_dict(state)
