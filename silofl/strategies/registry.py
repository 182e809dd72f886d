"""Strategies by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from types import ModuleType

from silofl import families, strategies
from silofl.families import Named
from silofl.strategies.base import Strategy


def strategy_of(module: ModuleType) -> type[Strategy]:
    """The one strategy that a module defines. Raises TypeError where it is not as a strategy must be."""
    kind = families.member_of(module, Strategy)
    if "update" not in kind.sends or "buffers" in kind.sends:
        raise TypeError(f'{module.__name__}.{kind.__name__} must send "update", and leave out "buffers"')
    return kind


STRATEGIES: dict[str, type[Strategy]] = {
    name: strategy_of(module) for name, module in families.modules_of(strategies).items()
}
"""What `strategy.name` may be."""


def build(config: Named) -> Strategy:
    """The strategy that [strategy] names, with the values that it gives."""
    return families.build(STRATEGIES, config)
