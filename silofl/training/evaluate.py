"""The global model on one silo's held-out samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from silofl.errors import DataError
from silofl.tasks.base import OnePassTask, Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, handed
from silofl.training.losses import scalar_loss
from silofl.training.metric_states import LOSS, Evaluation, beside

Evaluate = Callable[[], Evaluation]
"""`evaluate` with all but what is loaded."""


Evaluated = Task | OnePassTask
"""What says of a model how well it does."""


class HasModule(Protocol):
    """A `FlatModel`, or anything else around a module."""

    @property
    def module(self) -> nn.Module:
        """The model."""


_WHEN = "in evaluation, under torch.no_grad()"


def evaluate(
    task: Evaluated,
    model: HasModule,
    test: Batches | None,
    batch_size: int,
    code: UserCode,
    *,
    batches: int | None = None,
) -> Evaluation:
    """Sums of the loss and the task's metrics over the samples of `test`, and how many there are.

    The model is in evaluation mode and is not changed. What it caches may be used by training afterwards, so
    that tensors are ordinary ones without gradients.

    Args:
        task: of the silo.
        model: what is evaluated.
        test: the held-out samples; None or no samples give an empty result.
        batch_size: samples that are looked at together.
        code: calls the task.
        batches: at most so many, for a trial; None: all.

    Raises:
        DataError: what the task reports is no metric, or its loss no number.
        UserCodeError: the task raised.
    """
    found = Evaluation()
    if test is None or len(test) == 0:
        return found
    with code.calling("model", when="as torch put it into evaluation mode"):
        model.module.eval()
    with torch.no_grad():
        for number, (batch, count) in enumerate(test.in_order(batch_size)):
            if number == batches:
                break
            found.add(reported(task, model.module, batch, code), count, code.silo)
    return found


def reported(task: Evaluated, module: nn.Module, batch: Any, code: UserCode) -> Any:
    """Loss and metrics of a batch, in one pass where the task has `evaluate`; errors as of `evaluate`."""
    if isinstance(task, OnePassTask):
        with code.calling("evaluate", task.evaluate, _WHEN):
            found = task.evaluate(module, handed(batch))
        if hasattr(found, "keys") and LOSS not in found:
            raise DataError(
                f'silo {code.silo}: the task\'s evaluate(model, batch) returned no "loss": return the loss '
                "under that name, beside the metrics",
                rank=code.silo,
            )
        return found
    with code.calling("loss", task.loss, _WHEN):
        loss = scalar_loss(task.loss(module, handed(batch)), code.silo)
    with code.calling("metrics", task.metrics, _WHEN):
        metrics = task.metrics(module, handed(batch))
        return {LOSS: loss, **beside((LOSS,), metrics)} if hasattr(metrics, "keys") else metrics
