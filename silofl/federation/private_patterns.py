"""Which parts of a silo's model stay with it: what the task names, and what the personal method keeps."""

from __future__ import annotations

from torch import nn

from silofl.errors import ConfigError
from silofl.personal.base import Personal
from silofl.tasks.base import PersonalTask, Task


def private_patterns(task: Task, method: Personal, module: nn.Module, silo: int) -> tuple[str, ...]:
    """Patterns (fnmatch) of names. ConfigError where a method does not go with the task or its model."""
    named = task.private if isinstance(task, PersonalTask) else ()
    if isinstance(named, str):  # which `private_names` refuses
        return named  # type: ignore[return-value]
    if named and method.effect in ("beside", "instead"):
        name = type(method).__module__.rpartition(".")[2]
        raise ConfigError(
            f"silo {silo}: personal.name = \"{name}\" keeps a whole model of each silo's own, and the task's "
            "attribute private keeps part of the shared one: remove one of them",
            rank=silo,
        )
    try:
        return (*named, *method.private(module))
    except ConfigError as error:
        raise ConfigError(f"silo {silo}: {error}", rank=silo) from None
