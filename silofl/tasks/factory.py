"""A user's own task, named in the configuration as `package.module:Class`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from silofl.errors import ConfigError, SiloflError
from silofl.tasks.base import Task
from silofl.tasks.checks import METHODS, task_of
from silofl.tasks.factory_source import named, no_module, no_name, path_with
from silofl.tasks.user_code import place_of


def from_factory(
    name: str, options: dict[str, Any], *, alone: bool = False, classes_only: bool = False
) -> Task:
    """Import `name` (the current folder counts as installed) and call it with `options`.

    What a module or a constructor raises may hold values of data that it reads, so its text is told where
    this process is `alone`, as in `silofl check`; else its place. With `classes_only` nothing is called but
    the class of a task: where somebody else chose the name and the options, `torch:load` is no way in.

    Raises:
        ConfigError: the name is malformed, there is no such module or class, the call fails, or what it
            returns is no task.
    """
    module_name, attribute = named(name)
    module = _import(name, module_name, alone)
    if not hasattr(module, attribute):
        raise no_name(name, module_name, attribute, dir(module), _hidden(module, module_name))
    made_by = getattr(module, attribute)
    if classes_only and not (isinstance(made_by, type) and all(hasattr(made_by, one) for one in METHODS)):
        raise ConfigError(
            f"task.factory = {name!r} is no class with the methods {', '.join(METHODS)}, and a model calls "
            "no other: make the task yourself, and give it to silofl.load(..., task=...)"
        )
    task = _call(name, made_by, options, alone)
    return task_of(task, f"task.factory = {name!r}")


def _import(name: str, module_name: str, alone: bool) -> ModuleType:
    sys.path[:] = path_with(str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise no_module(name, module_name, error.name) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"task.factory = {name!r}: importing {module_name} failed: {_said(error, alone)}"
        ) from error


def _hidden(module: ModuleType, module_name: str) -> str:
    """Where a library of that name was loaded before a file of the current folder could be."""
    file = f"{module_name.partition('.')[0]}.py"
    mine = Path.cwd() / file
    if not mine.exists() or getattr(module, "__file__", None) == str(mine):
        return ""
    return f": the library {module_name} is loaded, and not {file} of the current folder; rename yours"


def _call(name: str, factory: Any, options: dict[str, Any], alone: bool) -> Any:
    if not callable(factory):
        raise ConfigError(f"task.factory = {name!r} is a {type(factory).__name__}, not a class or function")
    try:
        return factory(**options)
    except SiloflError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"task.factory = {name!r} failed with task.options {sorted(options)}: {_said(error, alone)}"
        ) from error


def _said(error: BaseException, alone: bool) -> str:
    """The error's type, and the first line of its message where that is no value of data, else its place."""
    if isinstance(error, SystemExit):
        return "it ends the program (SystemExit), as a script does: keep that below if __name__ == '__main__'"
    place = place_of(error.__traceback__)
    if place and not alone and not isinstance(error, (SyntaxError, ImportError)):
        return f"{type(error).__name__}{place}; silofl check shows its text"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
