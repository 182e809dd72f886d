"""Robust rules by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from silofl import families, robust
from silofl.families import Named
from silofl.robust.base import RobustRule

RULES: dict[str, type[RobustRule]] = {
    name: families.member_of(module, RobustRule) for name, module in families.modules_of(robust).items()
}
"""What `robust.name` may be."""


def build(section: Named) -> RobustRule:
    """The rule that [robust] names, with the values that it gives."""
    return families.build(RULES, section)
