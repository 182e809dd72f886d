"""Learning problems: the `Task` interface, the built-in tasks and how built-in data is dealt to silos.

Importing this package loads no torch, which its names need and the readers of files do not: they are imported
when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from silofl.tasks.base import SiloData, SizedDataset, Task
    from silofl.tasks.registry import build

__all__ = ["SiloData", "SizedDataset", "Task", "build"]

_HOMES = {"base": ("SiloData", "SizedDataset", "Task"), "registry": ("build",)}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
