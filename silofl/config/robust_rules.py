"""What [robust] does not go with: what a silo tells that no rule looks at, and sums without parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.privacy.places import PLACES
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def robust_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[robust] and the sections that it leans on."""
    rule = config.robust.rule
    if rule is None:
        return []
    key, name = f'robust.name = "{config.robust.name}"', f'strategy.name = "{config.strategy.name}"'
    head, privacy = config.compress.text if config.compress.active else "", config.privacy
    by_round = [one for one, weighting in strategy.sends.items() if weighting == "round"]
    told = [*strategy.scalars, *(["weights of the round"] if by_round else [])]
    other = 'set strategy.name = "fedavg"'
    return [
        (
            rule.redraw is not None and rule.bucket == 1,
            f"robust.redraw = {rule.redraw} draws buckets anew, and robust.bucket = 1 has none: remove it, "
            "or set robust.bucket",
        ),
        (
            bool(told),
            f"{name} has each silo tell {' and '.join(told)}, of which {key} makes no robust mean, so that "
            f"one silo could still move the model anywhere: {other}",
        ),
        (
            strategy.needs == "rows" or type(strategy).part is not Strategy.part,
            f"{name} looks at updates, or at their mean, before {key} takes its place: {other}",
        ),
        (
            len(strategy.models) > 1 or bool(strategy.masks) or strategy.streaming() is not None,
            f"{key} is of updates of one whole model, and {name} sums something else: {other}",
        ),
        (
            config.compress.active,
            f"{key} looks at every silo's own update, and [compress] ({head}) gives sums alone: remove "
            "one of them",
        ),
        (
            config.prune.active,
            f"{key} looks at every silo's own update, and [prune] gives sums alone: remove one of them",
        ),
        (
            privacy.unit != "none" and not PLACES[privacy.place].alone,
            f'{key} looks at every silo\'s own update, and privacy.place = "{privacy.place}" shows noisy '
            'sums alone: set privacy.place = "local", or remove one of them',
        ),
        (
            not build(config.topology).gives_rows,
            f"{key} looks at every silo's own update of a round at every server, and topology.name = "
            f'"{config.topology.name}" does not give those: set topology.name = "sharded"',
        ),
    ]
