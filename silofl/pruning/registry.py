"""Rules of pruning by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from types import ModuleType

from silofl import families, pruning
from silofl.families import Named
from silofl.pruning.base import PruningRule


def rule_of(module: ModuleType) -> type[PruningRule]:
    """The one rule that a module defines. Raises TypeError where it is not as a rule must be."""
    return families.member_of(module, PruningRule)


RULES: dict[str, type[PruningRule]] = {
    name: rule_of(module) for name, module in families.modules_of(pruning).items()
}
"""What `prune.name` may be."""


def build(config: Named) -> PruningRule:
    """The rule that [prune] names, with the values that it gives."""
    return families.build(RULES, config)
