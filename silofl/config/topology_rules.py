"""What a rank without data does not go with, and what knows ranks by institutions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def topology_rules(config: Config) -> list[Rule]:
    """[topology] and sections that count every rank as a silo with data."""
    without, name = bool(build(config.topology).coordinators(1)), f'topology.name = "{config.topology.name}"'
    instead = 'set topology.name = "sharded", in which every rank has data'
    return [
        (
            without and not config.task.factory and config.task.name == "files" and config.data.agreed,
            f'{name} has a rank without data, and data.standardize = "federated", data.impute = "mean" and '
            'data.categorical of "union" are agreed on by all ranks: set constants in [data] (scale, center, '
            f"impute, categories), or {instead}",
        ),
    ]
