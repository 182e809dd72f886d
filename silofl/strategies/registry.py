"""Strategies by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

import pkgutil
from dataclasses import MISSING, fields
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, cast

from silofl import strategies
from silofl.strategies.base import Strategy

NO_STRATEGIES = ("base", "registry")
"""Modules of this folder that hold none, beside those whose names begin with an underscore."""


class Named(Protocol):
    """[strategy] of a configuration: a name, and the fields of the strategy of that name."""

    @property
    def name(self) -> str:
        """Which strategy."""


def strategy_of(module: ModuleType) -> type[Strategy]:
    """The one strategy that a module defines. Raises TypeError where it is not as a strategy must be."""
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Strategy) and kind.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} defines {len(found)} strategies: it must be exactly one")
    kind: Any = found[0]
    frozen = "__dataclass_params__" in vars(kind) and kind.__dataclass_params__.frozen
    if not (frozen and getattr(kind, "__final__", False)):
        raise TypeError(f"{module.__name__}.{kind.__name__} must be a @final @dataclass(frozen=True)")
    if any(field.default is MISSING for field in fields(kind)):
        raise TypeError(f"{module.__name__}.{kind.__name__} must give each of its fields a default")
    if "update" not in kind.sends or "buffers" in kind.sends:
        raise TypeError(f'{module.__name__}.{kind.__name__} must send "update", and leave out "buffers"')
    return cast(type[Strategy], kind)


def _discover() -> dict[str, type[Strategy]]:
    names = sorted(module.name for module in pkgutil.iter_modules(strategies.__path__))
    return {
        name: strategy_of(import_module(f"{strategies.__name__}.{name}"))
        for name in names
        if name not in NO_STRATEGIES and not name.startswith("_")
    }


STRATEGIES: dict[str, type[Strategy]] = _discover()
"""What `strategy.name` may be."""


def build(config: Named) -> Strategy:
    """The strategy that [strategy] names, with the values that it gives."""
    kind: Any = STRATEGIES[config.name]
    return cast(Strategy, kind(**{field.name: getattr(config, field.name) for field in fields(kind)}))
