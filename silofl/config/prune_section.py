"""[prune]: one section for each rule of pruning, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.pruning import registry
from silofl.pruning.base import ScheduledRule
from silofl.pruning.registry import RULES

DEFAULT = "none"
"""What a [prune] without a name means."""


class PruneConfig(Section):
    """[prune]: fewer weights, in all silos the same. The other keys are the fields of the rule."""

    name: str

    @property
    def active(self) -> bool:
        """Whether weights are pruned."""
        return registry.build(self).active

    @property
    def rule(self) -> ScheduledRule | None:
        """The rule; None where nothing is pruned."""
        rule = registry.build(self)
        return rule if isinstance(rule, ScheduledRule) else None

    @property
    def text(self) -> str:
        """What is pruned, in a few words; empty where nothing is."""
        rule = self.rule
        if rule is None:
            return ""
        when = f"after round {rule.end}" if rule.begin + 1 >= rule.end else f"by round {rule.end}"
        return f"pruned: {self.name}, {100 * rule.density:g} % of weights left {when}"


SECTIONS = {name: section_of(name, kind, PruneConfig) for name, kind in RULES.items()}
"""The section of each rule."""

if TYPE_CHECKING:
    AnyPrune = PruneConfig
else:
    AnyPrune = any_of(SECTIONS, DEFAULT)
"""The section of any rule, told apart by `name`."""
