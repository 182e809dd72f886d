"""[strategy]: one section for each strategy, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.strategies.registry import STRATEGIES

DEFAULT = "fedavg"
"""What a [strategy] without a name means."""


class StrategyConfig(Section):
    """[strategy]: how silos train together. The other keys are the fields of the strategy that is named."""

    name: str


SECTIONS = {name: section_of(name, kind, StrategyConfig) for name, kind in STRATEGIES.items()}
"""The section of each strategy."""

if TYPE_CHECKING:
    AnyStrategy = StrategyConfig
else:
    AnyStrategy = any_of(SECTIONS, DEFAULT)
"""The section of any strategy, told apart by `name`."""
