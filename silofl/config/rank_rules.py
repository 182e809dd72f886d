"""What several ranks of one silo do not share out: each would be ignored by a key that says otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config
    from silofl.personal.base import Personal

Rule = tuple[bool, str]


def rank_rules(config: Config, strategy: Strategy, method: Personal) -> list[Rule]:
    """Steps that are taken in one process, and gradients that are handed over dense."""
    ranks, train = config.train.ranks_per_silo, config.train
    several, key = ranks > 1, f"train.ranks_per_silo = {ranks}"
    name, own = f'strategy.name = "{config.strategy.name}"', f'personal.name = "{config.personal.name}"'
    return [
        (
            several and config.privacy.samples,
            f'{key} shares out steps, and privacy.unit = "{config.privacy.unit}" takes its clipped '
            "gradients in one process: set it to 1",
        ),
        (
            several and strategy.local == "masks",
            f"{key} shares out steps on parameters, and {name} draws its masks in one process: set it to 1",
        ),
        (
            several and strategy.compared_layer() is not None,
            f"{key} shares out the task's loss, and {name} compares outputs of models in one process: set it "
            "to 1",
        ),
        (
            several and method.effect == "instead",
            f"{key} shares out the steps of [train], and {own} takes its own in one process: set it to 1",
        ),
        (
            several and train.optimizer == "SparseAdam",
            f'{key} adds up dense gradients, and train.optimizer = "SparseAdam" takes sparse ones alone: '
            'choose another, such as "SGD"',
        ),
    ]
