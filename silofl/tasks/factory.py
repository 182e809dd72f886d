"""A user's own task, named in the configuration as `package.module:Class`."""

from __future__ import annotations

import difflib
import importlib
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from silofl.errors import ConfigError, SiloflError
from silofl.tasks.base import Task
from silofl.tasks.checks import task_of
from silofl.tasks.user_code import place_of


def from_factory(name: str, options: dict[str, Any], *, alone: bool = False) -> Task:
    """Import `name` (the current folder counts as installed) and call it with `options`.

    What a module or a constructor raises may hold values of data that it reads, so its text is told where
    this process is `alone`, as in `silofl check`; else its place.

    Raises:
        ConfigError: the name is malformed, there is no such module or class, the call fails, or what it
            returns is no task.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module_name.split("."), attribute])):
        raise ConfigError(f"task.factory = {name!r} is not of the form package.module:Class")
    module = _import(name, module_name, alone)
    if not hasattr(module, attribute):
        raise ConfigError(
            f"task.factory = {name!r}: {module_name} has no {attribute}"
            + (_hidden(module, module_name) or _nearest(module, attribute))
        )
    task = _call(name, getattr(module, attribute), options, alone)
    return task_of(task, f"task.factory = {name!r}")


def _import(name: str, module_name: str, alone: bool) -> ModuleType:
    root = module_name.partition(".")[0]
    if root in sys.stdlib_module_names:
        raise ConfigError(f"task.factory = {name!r}: Python has a module {root} of its own; rename yours")
    _add_folder(str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        remedy = "run in the folder that holds it or install it"
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            remedy = f"{module_name} imports it; install it"
        raise ConfigError(f"task.factory = {name!r}: there is no module {error.name}: {remedy}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"task.factory = {name!r}: importing {module_name} failed: {_said(error, alone)}"
        ) from error


def _add_folder(folder: str) -> None:
    """Let modules of a folder be found: before installed ones, and behind Python's own.

    A random.py there would else be what libraries get that load Python's later.
    """
    if folder not in sys.path:
        own = sysconfig.get_path("stdlib")
        places = [place for place, entry in enumerate(sys.path) if entry == own or _is_inside(entry, own)]
        sys.path.insert(places[-1] + 1 if places else 0, folder)


def _is_inside(entry: str, own: str) -> bool:
    """Whether an entry of sys.path has more of Python's own modules, which those of packages are not."""
    return entry.startswith(f"{own}/") and not entry.endswith("-packages")


def _hidden(module: ModuleType, module_name: str) -> str:
    """Where a library of that name was loaded before a file of the current folder could be."""
    file = f"{module_name.partition('.')[0]}.py"
    mine = Path.cwd() / file
    if not mine.exists() or getattr(module, "__file__", None) == str(mine):
        return ""
    return f": the library {module_name} is loaded, and not {file} of the current folder; rename yours"


def _nearest(module: ModuleType, attribute: str) -> str:
    near = difflib.get_close_matches(attribute, dir(module), n=1)
    return f": did you mean {near[0]}?" if near else ""


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
