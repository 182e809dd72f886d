"""From the configuration to a task."""

from __future__ import annotations

from collections.abc import Callable

from silofl.config import Config, DataConfig, TaskConfig
from silofl.errors import unknown_name
from silofl.tasks.base import Task
from silofl.tasks.breast_cancer import BreastCancer
from silofl.tasks.digits import Digits
from silofl.tasks.factory import from_factory
from silofl.tasks.files import Files
from silofl.tasks.synthetic import Synthetic

TASKS: dict[str, Callable[[TaskConfig, DataConfig, int], Task]] = {
    "digits": Digits,
    "breast_cancer": BreastCancer,
    "synthetic": Synthetic,
    "files": Files,
}
"""What each value of `task.name` makes of [task], [data] and the run's seed."""


def build(config: Config, *, alone: bool = False) -> Task:
    """The task that `task.factory`, or else `task.name`, names; `alone`: see `UserCode`.

    Raises:
        ConfigError: a user's task that cannot be imported or constructed, or a model that does not fit.
    """
    if config.task.factory:
        return from_factory(config.task.factory, config.task.options, alone=alone)
    if config.task.name not in TASKS:
        raise unknown_name("task.name", config.task.name, TASKS)
    return TASKS[config.task.name](config.task, config.data, config.run.seed)
