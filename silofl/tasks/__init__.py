"""Learning problems: the `Task` interface, the built-in tasks and how built-in data is dealt to silos."""

from silofl.tasks.base import SiloData, SizedDataset, Task
from silofl.tasks.registry import build

__all__ = ["SiloData", "SizedDataset", "Task", "build"]
