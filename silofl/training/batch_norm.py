"""Running statistics of batch normalization: averaged over silos, each silo's own, or found anew."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from silofl.errors import ConfigError
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, handed


def statistics_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the running means and variances."""
    return tuple(
        f"{name}.{kind}" if name else kind
        for name, _ in _norms(module)
        for kind in ("running_mean", "running_var")
    )


def own_statistics(module: nn.Module, choice: str) -> tuple[str, ...]:
    """Names of those that stay with their silo by `train.batch_norm`. ConfigError where it does nothing."""
    if choice == "averaged":
        return ()
    found = statistics_of(module)
    if not found:
        raise ConfigError(
            f'train.batch_norm = "{choice}" is about running statistics of batch normalization, and the '
            "model has none: remove it"
        )
    return found


def recompute(task: Task, module: nn.Module, train: Batches, batch_size: int, code: UserCode) -> None:
    """Set running statistics to the means, batch by batch, of one pass over the training samples.

    The parameters stay; the model is in training mode meanwhile, as when such statistics are made.
    """
    norms = [one for _, one in _norms(module)]
    momenta = [one.momentum for one in norms]
    try:
        for one in norms:
            one.reset_running_stats()
            one.momentum = None  # for a plain mean over the batches
        with torch.no_grad(), code.calling("loss", task.loss):
            module.train()
            for batch, _ in train.in_order(batch_size):
                task.loss(module, handed(batch))
    finally:
        for one, momentum in zip(norms, momenta, strict=True):
            one.momentum = momentum


def _norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Those that track statistics, by name."""
    for name, one in module.named_modules():
        if isinstance(one, _BatchNorm) and one.running_mean is not None:
            yield name, one
