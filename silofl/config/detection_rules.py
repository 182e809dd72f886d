"""What [detection] does not go with: sums in which updates are not seen, and keys that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def detection_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[detection] and the sections that it leans on."""
    found, name = config.detection, f'strategy.name = "{config.strategy.name}"'
    key = f'detection.mode = "{found.mode}"'
    idle = sorted({*found.idle} & found.model_fields_set)
    rules = [
        (
            bool(idle),
            f"detection.{idle[0] if idle else ''} does nothing with {key}: remove it, or set detection.mode "
            '= "exclude"',
        ),
    ]
    if not found.active:
        return rules
    head, other = config.compress.text if config.compress.active else "", 'set strategy.name = "fedavg"'
    told = [*strategy.scalars, *(["weights of the round"] if "round" in strategy.sends.values() else [])]
    return [
        *rules,
        (
            found.strikes > found.window,
            f"detection.strikes = {found.strikes} suspicious updates are not among detection.window = "
            f"{found.window}: raise detection.window, or lower detection.strikes",
        ),
        (
            found.excludes and bool(told),
            f"{name} has each silo tell {' and '.join(told)}, which enter the mean also of a silo that {key} "
            f"leaves out: {other}",
        ),
        (
            len(strategy.models) > 1 or bool(strategy.masks) or strategy.streaming() is not None,
            f"{key} compares updates of one whole model, and {name} sums something else: {other}",
        ),
        (
            strategy.needs == "rows" or type(strategy).part is not Strategy.part,
            f"{name} compares updates by itself, also those that {key} leaves out: {other}",
        ),
        (
            config.compress.active,
            f"{key} compares every silo's own update, and [compress] ({head}) gives sums alone: remove one "
            "of them",
        ),
        (
            config.prune.active,
            f"{key} compares every silo's own update, and [prune] gives sums alone: remove one of them",
        ),
        (
            config.privacy.unit != "none",
            f"{key} shows numbers of every silo's own update, which no epsilon of [privacy] counts: remove "
            "one of them",
        ),
        (
            not build(config.topology).gives_rows,
            f"{key} compares every silo's own update of a round at every server, and topology.name = "
            f'"{config.topology.name}" does not give those: set topology.name = "sharded"',
        ),
    ]
