"""What a task's own `optimizers` and `fit` do not go with: keys that would do nothing, and promises."""

from __future__ import annotations

from collections.abc import Iterator

from silofl.config import Config, TrainConfig
from silofl.config.conflicts import corrects
from silofl.errors import ConfigError
from silofl.personal.base import Personal
from silofl.strategies.base import Strategy
from silofl.tasks.base import ArrivingTask, FittingTask, OptimizingTask, PersonalTask, Task
from silofl.topologies.arrangements.registry import build

_OF_OPTIMIZER = ("optimizer", "lr", "momentum", "weight_decay", "options")
"""Keys of [train] that make an optimizer."""
_OF_STEPS = (
    *("epochs", "steps", "seconds", "full_batch", "drop_last", "keep_optimizer", "clip_norm", "precision"),
    "schedule",
)
"""Keys of [train] that make local steps, besides `batch_size`, which evaluation has."""


def refuse_unfit(config: Config, task: Task, strategy: Strategy, method: Personal, silo: int) -> None:
    """Raise ConfigError, of one sentence with the remedy, where a task's own code cannot be had."""
    found = [*_of_optimizers(config, task, strategy, method), *_of_fit(config, task, strategy, method)]
    found += [*_of_clients(config, task), *_of_new_samples(config, task, strategy)]
    if found:
        raise ConfigError(f"silo {silo}: {found[0]}", rank=silo)


def _of_optimizers(config: Config, task: Task, strategy: Strategy, method: Personal) -> Iterator[str]:
    if not isinstance(task, OptimizingTask):
        return
    head, name = "the task has optimizers(model)", f'strategy.name = "{config.strategy.name}"'
    if isinstance(task, FittingTask):
        yield f"{head} and a fit(model, data, round), which makes its own: remove one of them"
    for key, value in _set(config.train, _OF_OPTIMIZER):
        yield f"{head}, so that train.{key} = {value} does nothing: remove it"
    if config.privacy.unit == "silo" and config.run.participation < 1:
        yield (
            f"{head}, which may keep something of rounds that do not count, and run.participation = "
            f"{config.run.participation:g} has such: remove it, or set run.participation = 1"
        )
    if strategy.local != "train":
        yield f'{head}, and {name} takes no step by one: remove it, or set strategy.name = "fedavg"'
    if strategy.needs_rates:
        yield (
            f"{head}, and {name} reckons with steps of train.lr and train.momentum: remove it, or set "
            'strategy.name = "fedavg"'
        )
    if method.effect in ("beside", "instead") or _fits_itself(method):
        yield f'{head}, and personal.name = "{config.personal.name}" makes its own by [train]: remove one'


def _of_fit(config: Config, task: Task, strategy: Strategy, method: Personal) -> Iterator[str]:
    if not isinstance(task, FittingTask):
        return
    head, name = "the task has a fit(model, data, round) of its own", config.strategy.name
    privacy, remedy = config.privacy, "remove it, so that silofl takes the steps"
    if privacy.samples:
        yield (
            f'{head}, in which no example can be clipped by itself, and privacy.unit = "{privacy.unit}" '
            f'protects each: {remedy}, or set privacy.unit = "silo"'
        )
    if privacy.unit == "silo" and config.run.participation < 1:
        yield (
            f"{head}, which may carry over what it did in rounds that do not count, and run.participation = "
            f"{config.run.participation:g} has such: {remedy}, or set run.participation = 1"
        )
    for key, value in _set(config.train, (*_OF_OPTIMIZER, *_OF_STEPS)):
        yield f"{head}, so that train.{key} = {value} does nothing: remove it"
    if (
        strategy.local != "train"
        or strategy.needs_rates
        or corrects(strategy)
        or strategy.compared_layer() is not None
        or strategy.streaming() is not None
    ):
        yield (
            f'{head}, and strategy.name = "{name}" has a part in each local step: {remedy}, or set '
            'strategy.name = "fedavg"'
        )
    if method.effect in ("beside", "instead") or _fits_itself(method):
        yield (
            f'{head}, and personal.name = "{config.personal.name}" trains by steps of [train]: {remedy}, or '
            "remove [personal]"
        )
    if config.prune.active:
        yield (f"{head}, and [prune] holds weights at zero in each local step: {remedy}, or remove [prune]")
    if config.train.ranks_per_silo > 1:
        yield (
            f"{head}, and train.ranks_per_silo = {config.train.ranks_per_silo} has other ranks take part in "
            f"each of silofl's steps: {remedy}, or set it to 1"
        )


def _of_clients(config: Config, task: Task) -> Iterator[str]:
    """What [clients] has each client do anew, and a task may do for a silo as a whole."""
    if not config.clients.active:
        return
    why = "which is of a whole silo, and [clients] has each client train anew: remove it, or [clients]"
    if isinstance(task, FittingTask):
        yield f"the task has a fit(model, data, round) of its own, {why}"
    if isinstance(task, OptimizingTask):
        yield f"the task has optimizers(model), {why}"
    if isinstance(task, PersonalTask) and task.private:
        yield f"the task's attribute private keeps part of the model, {why}"


def _of_new_samples(config: Config, task: Task, strategy: Strategy) -> Iterator[str]:
    """What needs all of a silo's records at the start, and a task whose records come between rounds."""
    if not isinstance(task, ArrivingTask):
        return
    head = "the task has arrived(silo, round), by which records come between rounds"
    if config.privacy.unit == "patient" or config.clients.split == "owner":
        key = 'clients.split = "owner"' if config.clients.split == "owner" else 'privacy.unit = "patient"'
        yield f"{head}, and {key} has to know whose each is: remove one of them"
    if isinstance(task, FittingTask):
        yield f"{head}, and a fit(model, data, round), which is given those of the start: remove one of them"
    if strategy.streaming() is not None:
        yield (
            f'{head}, and strategy.name = "{config.strategy.name}" has a sum for each fragment, of weights '
            'that stay: remove it, or set strategy.name = "diloco"'
        )
    if not build(config.topology).follows_samples:
        yield (
            f'{head}, and topology.name = "{config.topology.name}" weighs silos by those of the '
            "start: remove it, or [topology]"
        )
    if config.train.ranks_per_silo > 1:
        yield (
            f"{head}, and train.ranks_per_silo = {config.train.ranks_per_silo} has other ranks with data of "
            "their own: set it to 1, or remove it"
        )


def _set(train: TrainConfig, keys: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Keys that are not as they are when unset, with their values."""
    unset = TrainConfig()
    for key in keys:
        value = getattr(train, key)
        if value != getattr(unset, key):
            shown = value.name if key == "schedule" else value
            yield key, str(shown).lower() if isinstance(value, bool) else repr(shown)


def _fits_itself(method: Personal) -> bool:
    return type(method).fit is not Personal.fit
