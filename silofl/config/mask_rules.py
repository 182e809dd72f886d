"""What strategies of masks do not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def mask_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """What does not go with masks."""
    masks, key = strategy.local == "masks", f'strategy.name = "{config.strategy.name}"'
    return [
        (
            masks and config.compress.active,
            f"{key} sends one bit a weight, counted exactly, and [compress] rounds: remove it",
        ),
        (
            masks and config.privacy.unit != "none",
            f"{key} sends masks, which [privacy] can neither clip nor put noise on: remove [privacy], or "
            "choose another strategy",
        ),
        (
            masks and config.personal.name != "none",
            f'{key} trains no parameter, and personal.name = "{config.personal.name}" would: remove '
            "[personal]",
        ),
        (
            masks and config.train.optimizer == "SparseAdam",
            f'train.optimizer = "SparseAdam" takes sparse gradients alone, and scores of {key} have others: '
            'choose another, such as "Adam"',
        ),
    ]
