"""What [attack] does not go with: protected data, and updates that are no whole vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def attack_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[attack] and the sections that it leans on."""
    attack = config.attack.attack
    if attack is None:
        return []
    key, name = f'attack.name = "{config.attack.name}"', f'strategy.name = "{config.strategy.name}"'
    return [
        (
            config.privacy.unit != "none",
            f"{key} rehearses, and a run with [privacy] spends epsilon of real data, and bounds what silos "
            "may send: remove one of them",
        ),
        (
            not build(config.topology).gives_rows,
            f"{key} is rehearsed among silos that are all alike and send their updates in every round, and "
            f'topology.name = "{config.topology.name}" has others: set topology.name = "sharded"',
        ),
        (
            bool(strategy.masks) or strategy.streaming() is not None,
            f"{key} forges updates of one whole model, and {name} sums something else: set "
            'strategy.name = "fedavg"',
        ),
    ]
