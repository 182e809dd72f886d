"""What `train.schedule` does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.personal.base import Personal
from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config


def rate_rules(config: Config, strategy: Strategy, method: Personal) -> list[tuple[bool, str]]:
    """Each rule a condition and the sentence that says what to do."""
    schedule, rounds = config.train.schedule, config.run.rounds
    key = f'train.schedule.name = "{schedule.name}"'
    if schedule.name == "constant":
        key = f"train.schedule.warm_up = {schedule.warm_up}"
    over = schedule.rounds or rounds
    return [
        (
            schedule.changes and strategy.local == "gradient",
            f'{key} is of local steps, and strategy.name = "{config.strategy.name}" takes none: remove it, '
            "and set strategy.lr, which stays as it is",
        ),
        (
            schedule.changes and method.effect in ("beside", "instead"),
            f'{key} is of the shared work\'s rate, and personal.name = "{config.personal.name}" has steps of '
            "its own: remove one of them",
        ),
        (
            not schedule.changes and bool(schedule.rounds or schedule.options),
            'train.schedule has rounds or options, which do nothing while its name is "constant" and it '
            "has no warm_up: remove them, or set train.schedule.name",
        ),
        (
            schedule.name == "constant" and bool(schedule.options),
            'train.schedule.options are set, and train.schedule.name = "constant" has none: remove them',
        ),
        (
            schedule.changes and schedule.warm_up >= over,
            f"train.schedule.warm_up = {schedule.warm_up} takes all of {over} rounds: lower it",
        ),
        (
            schedule.changes and over < rounds,
            f"train.schedule.rounds = {over} is less than run.rounds = {rounds}, so that it would be over "
            "before the run is: raise it, or remove it",
        ),
        (
            schedule.name == "one-cycle" and over < 2,
            f"{key} needs two rounds at least, and there is {over}: raise run.rounds, or remove it",
        ),
    ]
