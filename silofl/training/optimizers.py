"""Optimizers of local training, as [train] names them, and what one cannot do with a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from silofl.config import TrainConfig
from silofl.errors import ConfigError
from silofl.training.flat import FlatModel
from silofl.training.muon import muon
from silofl.training.own_optimizers import OwnOptimizers
from silofl.training.unmarked import leave_unmarked, step_unmarked


def optimizer_kind(config: TrainConfig) -> type[torch.optim.Optimizer]:
    """The class that [train] names. ConfigError where torch.optim has none, or none that steps by itself."""
    kind: Any = getattr(torch.optim, config.optimizer, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ConfigError(
            f"train.optimizer = {config.optimizer!r} is no class of torch.optim; try SGD or AdamW"
        )
    if needs_closure(kind):
        raise ConfigError(
            f"train.optimizer = {config.optimizer!r} evaluates the loss several times in a step, by a "
            "closure, and steps here take one batch each: choose another, such as SGD or AdamW"
        )
    return kind


def new_optimizer(
    model: FlatModel, config: TrainConfig, parameters: Sequence[Tensor] | None = None
) -> torch.optim.Optimizer:
    """The optimizer of [train] over some or all trained parameters. ConfigError where there is none such."""
    parameters = list(model.trained.values()) if parameters is None else list(parameters)
    kind = optimizer_kind(config)
    leave_unmarked()
    try:
        if config.optimizer == "Muon":
            optimizer: torch.optim.Optimizer = muon(model, config, parameters)
        else:
            optimizer = _made(kind, parameters, config)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.optimizer = {config.optimizer!r} refuses its options: {error}") from None
    step_unmarked(optimizer)
    return optimizer


@contextmanager
def frozen(trained: Iterable[Tensor], only: Sequence[Tensor] | None) -> Iterator[None]:
    """Let no other parameters have gradients; all trained ones have them again afterwards."""
    kept = None if only is None else {id(one) for one in only}
    frozen = [one for one in trained if kept is not None and id(one) not in kept]
    for one in frozen:
        one.requires_grad_(False)
        one.grad = None
    try:
        yield
    finally:
        for one in frozen:
            one.requires_grad_(True)


def _made(
    make: Callable[..., torch.optim.Optimizer], parameters: list[Tensor], config: TrainConfig
) -> torch.optim.Optimizer:
    given = {"momentum": config.momentum, "weight_decay": config.weight_decay}
    options = {key: value for key, value in given.items() if value is not None} | config.options
    return make(parameters, lr=config.lr, **options)


def refuse_gradients(
    optimizer: torch.optim.Optimizer, model: FlatModel, config: TrainConfig, silo: int
) -> None:
    """Take a step. ConfigError where the optimizer, or train.clip_norm, takes no such gradients."""
    named = model.module.named_parameters()
    sparse = [name for name, p in named if p.grad is not None and p.grad.is_sparse]
    what = f" with the sparse gradients of {sparse[0]}" if sparse else ""
    if sparse and config.clip_norm is not None:
        raise ConfigError(
            f"train.clip_norm = {config.clip_norm} does not go{what}: remove it, or build its layer "
            "with sparse=False",
            rank=silo,
        )
    try:
        optimizer.step()
    except (RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if isinstance(optimizer, OwnOptimizers):
            said = f"the task's optimizers(model) takes no step on its model{what} ({type(error).__name__})"
            raise ConfigError(f"silo {silo}: {said}", rank=silo) from None
        decay = f" with train.weight_decay = {config.weight_decay}" if config.weight_decay else ""
        remedy = ": remove train.weight_decay, or build its layer with sparse=False" if decay else ""
        raise ConfigError(
            f"train.optimizer = {config.optimizer!r}{decay} takes no step on this model{what}"
            + (remedy if sparse else "")
            + f" ({(str(error).splitlines() or [''])[0][:200]})",
            rank=silo,
        ) from None


def needs_closure(kind: type[torch.optim.Optimizer]) -> bool:
    """Whether an optimizer's step cannot be called without a function that evaluates the loss."""
    closure = inspect.signature(kind.step).parameters.get("closure")
    return (
        closure is not None
        and closure.default is inspect.Parameter.empty
        and kind is not torch.optim.Optimizer
    )
