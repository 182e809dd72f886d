"""From the configuration to a task. Importing it loads no task, and no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from silofl.config import Config, TaskConfig
from silofl.errors import unknown_name

if TYPE_CHECKING:
    from silofl.tasks.base import Task

TASKS = {
    "digits": "silofl.tasks.digits:Digits",
    "breast_cancer": "silofl.tasks.breast_cancer:BreastCancer",
    "synthetic": "silofl.tasks.synthetic:Synthetic",
    "files": "silofl.tasks.files:Files",
}
"""For each value of `task.name` the class that is made of [task], [data] and the run's seed."""


def build(config: Config, *, alone: bool = False, classes_only: bool = False) -> Task:
    """The task that `task.factory`, or else `task.name`, names; `alone`: see `UserCode`.

    `classes_only`: see `from_factory`.

    Raises:
        ConfigError: a user's task that cannot be imported or constructed, or a model that does not fit.
    """
    task: Task
    if config.task.factory:
        factory = import_module("silofl.tasks.factory")
        task = factory.from_factory(
            config.task.factory, config.task.options, alone=alone, classes_only=classes_only
        )
        return task
    refuse_unknown(config.task)
    module, _, name = TASKS[config.task.name].partition(":")
    task = getattr(import_module(module), name)(config.task, config.data, config.run.seed)
    return task


def refuse_unknown(task: TaskConfig) -> None:
    """Raise ConfigError where `task.name` names none."""
    if task.name not in TASKS:
        raise unknown_name("task.name", task.name, TASKS)
