"""Learning rates round by round, by torch's schedulers: a function of the round's number, without a state."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Self, final

import torch
from torch.optim import lr_scheduler

from silofl.config import Config
from silofl.config.inner_tables import Schedule
from silofl.errors import ConfigError
from silofl.training.unmarked import leave_unmarked, step_unmarked

Scheduler = lr_scheduler.LRScheduler
MAKERS: dict[str, Callable[[torch.optim.Optimizer, int, dict[str, Any]], Scheduler]] = {
    "constant": lambda one, rounds, given: lr_scheduler.LambdaLR(one, lambda _: 1.0, **given),
    "cosine": lambda one, rounds, given: lr_scheduler.CosineAnnealingLR(one, **{"T_max": rounds} | given),
    "linear": lambda one, rounds, given: lr_scheduler.PolynomialLR(one, **{"total_iters": rounds} | given),
    "step": lambda one, rounds, given: lr_scheduler.StepLR(one, **{"step_size": max(1, rounds // 3)} | given),
}
"""By name: torch's scheduler of an optimizer of rate 1 over so many rounds, without a warm-up."""


@final
class RoundSchedule:
    """By what learning rates of local steps are multiplied in each round.

    Args:
        schedule: `train.schedule`.
        rounds: `run.rounds`, for which it is where it does not say.

    Raises ConfigError where torch's scheduler refuses its arguments.
    """

    def __init__(self, schedule: Schedule | None = None, rounds: int = 1) -> None:
        self._schedule = Schedule() if schedule is None else schedule
        self._rounds = self._schedule.rounds or rounds
        if self.changes:
            _ = self._factors

    @classmethod
    def of(cls, config: Config) -> Self:
        """That of a run."""
        return cls(config.train.schedule, config.run.rounds)

    @property
    def changes(self) -> bool:
        """Whether any round has another rate than the others."""
        return self._schedule.changes

    def factor(self, round_number: int) -> float:
        """That of a round, from 1; behind the last of the schedule that of the last."""
        if not self.changes:
            return 1.0
        return self._factors[min(round_number, self._rounds) - 1]

    @cached_property
    def _factors(self) -> list[float]:
        leave_unmarked()
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        step_unmarked(optimizer)
        try:
            scheduler, found = self._scheduler(optimizer), []
            for number in range(self._rounds):
                found.append(float(optimizer.param_groups[0]["lr"]))
                if number + 1 < self._rounds:
                    optimizer.step()
                    scheduler.step()
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ConfigError(
                f'train.schedule.name = "{self._schedule.name}" with options '
                f"{self._schedule.options} over {self._rounds} rounds is refused by torch: {error}"
            ) from None
        return found

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> Scheduler:
        name, warm, options = self._schedule.name, self._schedule.warm_up, self._schedule.options
        if name == "one-cycle":
            rising = {"pct_start": warm / self._rounds} if warm else {}
            given = {"max_lr": 1.0, "total_steps": self._rounds, "cycle_momentum": False} | rising
            return lr_scheduler.OneCycleLR(optimizer, **given | options)
        if not warm:
            return MAKERS[name](optimizer, self._rounds, options)
        first = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warm + 1), total_iters=warm)
        then = MAKERS[name](optimizer, self._rounds - warm, options)
        return lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[warm])
