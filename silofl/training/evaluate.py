"""The global model on one silo's held-out samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from silofl.tasks.base import Mean, OnePassTask, Task
from silofl.training.batches import Batches
from silofl.training.flat import FlatModel

EVALUATION_BATCH = 1024


def evaluate(task: Task, model: FlatModel, test: Batches | None) -> tuple[dict[str, float], int]:
    """Means of the loss and the task's metrics over the samples of `test`, and how many there are.

    The model is in evaluation mode and is not changed. No samples give an empty dict and 0.
    """
    if test is None or len(test) == 0:
        return {}, 0
    model.module.eval()
    sums: dict[str, float] = {}
    with torch.no_grad():  # what a model caches here it may use in training, unlike inference tensors
        for batch, count in test.in_order(EVALUATION_BATCH):
            for name, mean in _means(task, model.module, batch).items():
                sums[name] = sums.get(name, 0.0) + float(mean) * count
    return {name: total / len(test) for name, total in sums.items()}, len(test)


def _means(task: Task, module: nn.Module, batch: Any) -> Mapping[str, Mean]:
    """Loss and metrics of a batch, in one pass where the task has `evaluate`."""
    if isinstance(task, OnePassTask):
        return task.evaluate(module, batch)
    return {"loss": task.loss(module, batch), **task.metrics(module, batch)}
