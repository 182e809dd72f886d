"""A step before the first round, taken back at once: slips in a task are told before anything is shared."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from silofl.config import TrainConfig
from silofl.errors import DataError, UserCodeError
from silofl.training.batches import Batches, spans
from silofl.training.flat import FlatModel
from silofl.training.hooks import hook_tables, hooks_of, refuse_added
from silofl.training.local_batches import FULL_BATCH_PIECE
from silofl.training.optimizers import refuse_gradients
from silofl.training.trainer import LocalTrainer

Tables = list[tuple[MutableMapping[Any, Any], dict[Any, Any]]]
"""What is registered, and what was."""


class Trial:
    """A silo's first batch, and its smallest, tried on its model.

    Args:
        trainer: of the silo.
        model: what it trains.
        train: the silo's training samples.
        config: [train].
        silo: its number, for errors.
    """

    def __init__(
        self, trainer: LocalTrainer, model: FlatModel, train: Batches, config: TrainConfig, silo: int
    ) -> None:
        self._trainer, self._model, self._module, self._train = trainer, model, model.module, train
        self._config, self._silo = config, silo

    def run(self, *, own_steps: bool) -> None:
        """Try steps, and put parameters and buffers back; errors as in `_step`. Nothing of an `OwnLoop`.

        `own_steps`: whether training hands gradients to the optimizer as autograd leaves them.
        Raises DataError, too, where the model's normalization takes no batch of one sample, and where every
        step adds hooks.
        """
        if self._trainer.own_loop is not None:
            return
        count = len(self._train)
        sizes = [min(count, FULL_BATCH_PIECE)]
        if not self._config.full_batch:
            sizes = [
                b - a for a, b in spans(count, self._config.batch_size, drop_last=self._config.drop_last)
            ]
        before = hooks_of(self._module)
        with kept(self._module):
            if sizes[0] > 1:
                self._step(sizes[0], own_steps=own_steps)
                once = hooks_of(self._module)
                if once != before:  # a model may add hooks in its first forward pass, once
                    self._step(sizes[0], own_steps=own_steps)
                    refuse_added(once, hook_tables(self._module), self._silo)
            if self._smallest_part(sizes[-1]) == 1:
                self._single_sample(count, own_steps=own_steps, drops=sizes[0] > 1)

    def _smallest_part(self, size: int) -> int:
        """Of a batch of so many samples, as a rank of the silo has one."""
        return max(1, size // self._config.ranks_per_silo)

    def _step(self, count: int, *, own_steps: bool) -> None:
        """Take a step as training would.

        Raises ConfigError where the optimizer, or train.clip_norm, takes no such gradients, DataError where
        the loss is no number to be differentiated, and UserCodeError for what the task raises.
        """
        batch = self._train.take(torch.arange(count))
        with self._train.watching(batch):
            self._trainer.to_train()
            self._trainer.differentiate(batch)
            # after the task's own code, which may be what is wrong
            optimizer = self._trainer.optimizer.new()
            if own_steps:
                refuse_gradients(optimizer, self._model, self._config, self._silo)

    @property
    def _layer(self) -> str | None:
        """The name of a layer that needs several values of each channel; None without one."""
        kinds = (_BatchNorm, _InstanceNorm)
        return next((name for name, one in self._module.named_modules() if isinstance(one, kinds)), None)

    def _single_sample(self, count: int, *, own_steps: bool, drops: bool) -> None:
        """Try a batch of one sample; `drops`: whether it is an epoch's last, not its only one."""
        try:
            self._step(1, own_steps=own_steps)
        except UserCodeError as error:
            size, layer = self._config.batch_size, self._layer
            remedy = "set a larger train.batch_size, or give the silo more samples"
            where = f"of {count} samples in batches of train.batch_size = {size} the last has one"
            if self._config.ranks_per_silo > 1:
                where += f" for a rank of train.ranks_per_silo = {self._config.ranks_per_silo}"
            if drops:
                remedy = "set train.drop_last = true, or another train.batch_size"
            if layer is None or not isinstance(error.__cause__, ValueError):
                raise UserCodeError(f"{error}; {where}: {remedy}", rank=self._silo) from error.__cause__
            raise DataError(
                f"silo {self._silo}: {where}, which the model's normalization {layer} cannot train on: "
                + remedy,
                rank=self._silo,
            ) from None


@contextmanager
def kept(module: nn.Module) -> Iterator[None]:
    """Put all that is registered back afterwards, and modes: the same tensors, with values and gradients.

    Also modules and their classes, which a parametrization that is made in a forward pass changes, and hooks.
    """
    modules = list(module.modules())
    hooks: Tables = [(table, dict(table)) for table in hook_tables(module).values()]
    parts = [(one, type(one), dict(one._modules)) for one in modules]
    places: Tables = [(table, dict(table)) for one in modules for table in (one._parameters, one._buffers)]
    tensors = {id(t): t for _, table in places for t in table.values() if t is not None}
    values = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors.values()]
    gradients = [(tensor, tensor.grad) for tensor in tensors.values()]
    modes = [(one, one.training) for one in modules]
    try:
        yield
    finally:
        for new in hook_tables(module).values():
            if all(new is not table for table, _ in hooks):  # of a tensor that had no hook
                new.clear()
        for one, kind, children in parts:
            one.__class__ = kind
            one._modules.clear()
            one._modules.update(children)
        for table, before in [*places, *hooks]:
            table.clear()
            table.update(before)
        with torch.no_grad():
            for tensor, memory, value in values:
                tensor.data = memory  # training may have given it another
                memory.copy_(value)
        for tensor, gradient in gradients:
            tensor.grad = gradient
        for one, mode in modes:
            one.training = mode
