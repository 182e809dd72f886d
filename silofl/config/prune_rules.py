"""What [prune] does not go with, and rounds in which it would do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.compression.base import FactorCodec
from silofl.compression.registry import CODECS
from silofl.personal import registry as methods
from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def prune_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[prune] and the sections that it leans on."""
    rule, run = config.prune.rule, config.run
    if rule is None:
        return []
    key, name = f'prune.name = "{config.prune.name}"', f'strategy.name = "{config.strategy.name}"'
    secure, effect = config.secure, methods.build(config.personal).effect
    return [
        (
            rule.begin >= rule.end,
            f"prune.begin = {rule.begin} is not before prune.end = {rule.end}: all weights are left after "
            f"the first, {100 * rule.density:g} % after the second; set the first to {rule.end - 1} or less",
        ),
        (
            rule.end > run.rounds,
            f"prune.end = {rule.end} is beyond run.rounds = {run.rounds}, so that "
            f"{100 * rule.density_after(run.rounds):.3g} % of weights would be left and not "
            f"{100 * rule.density:g} %: set prune.end to {run.rounds} or less, and some rounds less for "
            "what is left to be trained on",
        ),
        (
            rule.every > rule.end - rule.begin,
            f"prune.every = {rule.every} is more than the {rule.end - rule.begin} rounds from prune.begin to "
            f"prune.end, after which weights are pruned at once: set it to {rule.end - rule.begin}",
        ),
        (
            config.privacy.unit != "none",
            f"{key} and [privacy]: what the grid of the noise has a place for is fixed before the first "
            "round: remove [prune]",
        ),
        (
            strategy.streaming() is not None,
            f"{key} and {name}: a local model that goes on in each silo would keep pruned weights: set "
            'strategy.name = "diloco", or remove [prune]',
        ),
        (
            len(strategy.models) > 1,
            f"{key} makes one mask from one global model, and {name} has several: remove [prune], or set "
            'strategy.name = "fedavg"',
        ),
        (
            bool(strategy.masks),
            f"{key} prunes weights that are trained, and {name} trains masks of weights that never change: "
            'remove [prune], or set strategy.name = "fedavg"',
        ),
        (
            strategy.needs == "rows",
            f"{key} gives sums alone, and {name} needs every silo's own update: remove [prune], or choose "
            "another strategy",
        ),
        (
            effect in ("beside", "instead"),
            f'{key} prunes the shared model, and personal.name = "{config.personal.name}" keeps a whole '
            "model of each silo's own, which would not be pruned: remove one of them",
        ),
        (
            secure.range is not None,
            f"{key} agrees on ranges in every round, and secure.range = {secure.range} would be another: "
            "remove it",
        ),
        (
            issubclass(CODECS[config.compress.name], FactorCodec) and config.prune.name != "structured",
            f'{key} leaves places here and there, and compress.name = "{config.compress.name}" is of whole '
            'matrices: set prune.name = "structured", or another compress.name, such as "random_k"',
        ),
    ]
