"""Families: folders whose modules define one member each, a final frozen dataclass with keys as fields."""

from __future__ import annotations

import pkgutil
from dataclasses import MISSING, fields
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

NO_MEMBERS = ("base", "registry")
"""Modules of such a folder that define none, beside those whose names begin with an underscore."""

Member = TypeVar("Member")


class Named(Protocol):
    """A section of a configuration: a name, and the fields of the member of that name."""

    @property
    def name(self) -> str:
        """Which member."""


def member_of(module: ModuleType, base: type[Member]) -> type[Member]:
    """The one member that a module defines. Raises TypeError where it is not as one must be."""
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, base) and kind.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__} defines {len(found)} of {base.__name__}: it must be exactly one")
    kind: Any = found[0]
    frozen = "__dataclass_params__" in vars(kind) and kind.__dataclass_params__.frozen
    if not (frozen and getattr(kind, "__final__", False)):
        raise TypeError(f"{module.__name__}.{kind.__name__} must be a @final @dataclass(frozen=True)")
    if any(field.default is MISSING for field in fields(kind)):
        raise TypeError(f"{module.__name__}.{kind.__name__} must give each of its fields a default")
    return cast(type[Member], kind)


def modules_of(package: ModuleType) -> dict[str, ModuleType]:
    """The modules of a folder that define members, by the names of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {
        name: import_module(f"{package.__name__}.{name}")
        for name in names
        if name not in NO_MEMBERS and not name.startswith("_")
    }


def build(members: dict[str, type[Member]], section: Named) -> Member:
    """The member that a section names, with the values that it gives."""
    kind: Any = members[section.name]
    return cast(Member, kind(**{field.name: getattr(section, field.name) for field in fields(kind)}))
