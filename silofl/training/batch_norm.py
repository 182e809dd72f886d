"""Running statistics of batch normalization: averaged over silos, each silo's own, or found anew."""

from __future__ import annotations

from collections.abc import Iterator
from glob import escape

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from silofl.config import TrainConfig
from silofl.errors import ConfigError
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, handed, spans
from silofl.training.seeding import seed_everything


def statistics_of(module: nn.Module) -> tuple[str, ...]:
    """Names of the running means and variances."""
    return tuple(
        f"{name}.{kind}" if name else kind
        for name, _ in _norms(module)
        for kind in ("running_mean", "running_var")
    )


def own_statistics(module: nn.Module, choice: str) -> tuple[str, ...]:
    """Patterns (fnmatch) of those that stay with their silo by `train.batch_norm`.

    Raises ConfigError where it does nothing.
    """
    if choice == "averaged":
        return ()
    found = statistics_of(module)
    if not found:
        raise ConfigError(
            f'train.batch_norm = "{choice}" is about running statistics of batch normalization, and the '
            "model has none: remove it"
        )
    return tuple(map(escape, found))


def recompute(
    task: Task, module: nn.Module, train: Batches, config: TrainConfig, code: UserCode, seed: int
) -> None:
    """Set running statistics to the means, batch by batch, of one pass over the training samples.

    The parameters stay; the model is in training mode meanwhile, as when such statistics are made, and what
    it leaves in evaluation mode keeps its own. Batches are as large as those of training, which layers may
    need; `seed` is for what is random in them, such as dropout.
    """
    count = len(train)
    if not count:  # of a coordinator
        return
    size = count if config.full_batch else config.batch_size
    seed_everything(seed)
    with code.calling("model", when="as torch put it into training mode"):
        module.train()
    norms = [one for _, one in _norms(module) if one.training]
    momenta = [one.momentum for one in norms]
    try:
        for one in norms:
            one.reset_running_stats()
            one.momentum = None  # for a plain mean over the batches
        with torch.no_grad(), code.calling("loss", task.loss):
            for start, stop in spans(count, size, drop_last=config.drop_last):
                task.loss(module, handed(train.take(torch.arange(start, stop))))
    finally:
        for one, momentum in zip(norms, momenta, strict=True):
            one.momentum = momentum


def _norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Those that track statistics, by each name that they have."""
    for name, one in module.named_modules(remove_duplicate=False):
        if isinstance(one, _BatchNorm) and one.running_mean is not None:
            yield name, one
