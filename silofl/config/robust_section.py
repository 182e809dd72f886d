"""[robust]: one section for each robust rule, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.robust import registry
from silofl.robust.base import ResilientRule
from silofl.robust.registry import RULES

DEFAULT = "none"
"""What a [robust] without a name means."""


class RobustConfig(Section):
    """[robust]: what is in the place of means where silos may send anything. Other keys are the rule's."""

    name: str

    @property
    def rule(self) -> ResilientRule | None:
        """The rule; None where means stay means."""
        rule = registry.build(self)
        return rule if isinstance(rule, ResilientRule) else None

    @property
    def text(self) -> str:
        """The rule in a few words; empty where there is none."""
        rule = self.rule
        if rule is None:
            return ""
        before = [
            *(["clipped"] if rule.clip else []),
            *([f"in buckets of {rule.bucket}"] if rule.bucket > 1 else []),
            *(["mixed"] if rule.mix else []),
        ]
        return f"{self.name} with f = {rule.f}" + (f", of updates {' and '.join(before)}" if before else "")


SECTIONS = {name: section_of(name, kind, RobustConfig) for name, kind in RULES.items()}
"""The section of each rule."""

if TYPE_CHECKING:
    AnyRobust = RobustConfig
else:
    AnyRobust = any_of(SECTIONS, DEFAULT)
"""The section of any rule, told apart by `name`."""
