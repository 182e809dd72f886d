"""Personal methods by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from types import ModuleType

from silofl import families, personal
from silofl.families import Named
from silofl.personal.base import Personal


def method_of(module: ModuleType) -> type[Personal]:
    """The one method that a module defines. Raises TypeError where it is not as a method must be."""
    return families.member_of(module, Personal)


METHODS: dict[str, type[Personal]] = {
    name: method_of(module) for name, module in families.modules_of(personal).items()
}
"""What `personal.name` may be."""


def build(config: Named) -> Personal:
    """The method that [personal] names, with the values that it gives."""
    return families.build(METHODS, config)
