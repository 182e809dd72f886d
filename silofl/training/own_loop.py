"""A task's own training loop, `fit(model, data, round)`, in the place of silofl's local steps."""

from __future__ import annotations

import math
from typing import Any, Self, final

from torch import Tensor

from silofl.errors import DataError
from silofl.tasks.base import FittingTask, SizedDataset, Task
from silofl.tasks.user_code import UserCode
from silofl.training.flat import FlatModel


@final
class OwnLoop:
    """Calls a task's loop; the trained values are left in the model's vector.

    Args:
        task: with the loop.
        model: what it trains.
        data: the silo's training samples, as the task gave them.
        code: calls the task.
    """

    def __init__(self, task: FittingTask, model: FlatModel, data: SizedDataset, code: UserCode) -> None:
        self._task, self._model, self._data, self._code = task, model, data, code

    @classmethod
    def of(cls, task: Task, model: FlatModel, data: SizedDataset, code: UserCode) -> Self | None:
        """That of a task; None where it has none."""
        return cls(task, model, data, code) if isinstance(task, FittingTask) else None

    def fit(self, round_number: int) -> float | None:
        """Train from the values in the model's vector; the mean loss, None where the task tells none.

        DataError where it returned no such number. Gradients that it left are taken off.
        """
        model = self._model
        with self._code.calling("fit", self._task.fit):
            given = self._task.fit(model.module, self._data, round_number)
        for parameter in model.trained.values():
            parameter.grad = None
        model.adopt()
        return None if given is None else self._number(given)

    def _number(self, given: Any) -> float:
        if isinstance(given, Tensor) and given.numel() == 1 and not given.is_complex():
            given = given.item()
        if isinstance(given, bool) or not isinstance(given, (int, float)) or math.isnan(given):
            silo = self._code.silo
            kind = "NaN" if isinstance(given, float) else f"a {type(given).__name__}"
            raise DataError(
                f"silo {silo}: the task's fit(model, data, round) returned {kind}: return the mean loss of "
                "its steps, a number, or nothing; the trained values are taken from the model",
                rank=silo,
            )
        return float(given)
