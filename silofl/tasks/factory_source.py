"""A user's own task as far as it is known without running it: its name, its file, and the names in that.

Torch, which nearly every task imports, takes longer to load than all that is wrong here takes to find.
"""

from __future__ import annotations

import ast
import difflib
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from silofl.errors import ConfigError

_DYNAMIC = ("__getattr__", "globals(", "exec(", "setattr(", "sys.modules", "__path__")
"""Words of a file that may have other names and modules than it shows."""


def named(factory: str) -> tuple[str, str]:
    """The module and the name in it that `package.module:Class` consists of.

    Raises ConfigError where it is malformed, or the module would be one of Python's own.
    """
    module, colon, attribute = factory.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module.split("."), attribute])):
        raise ConfigError(f"task.factory = {factory!r} is not of the form package.module:Class")
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        raise ConfigError(f"task.factory = {factory!r}: Python has a module {root} of its own; rename yours")
    return module, attribute


def refuse_unfindable(factory: str) -> None:
    """Raise the ConfigError that importing would where a look at files tells of it; nothing is run.

    A missing module, one that is no Python, one whose imports are not installed, and a missing class. What
    a file may do about that by itself is left to importing.
    """
    module, attribute = named(factory)
    if module.partition(".")[0] in sys.modules:  # a library's: importing tells which is meant
        return
    path: Iterable[str] = path_with(str(Path.cwd()))
    sources: list[str] = []
    for name in _parents(module):
        spec = _spec(name, path)
        if spec is None:
            if any(word in source for source in sources for word in _DYNAMIC):
                return
            raise no_module(factory, module, name)
        source = _source(spec, name)
        if source is None and spec.submodule_search_locations is None:
            return  # no text to look at
        sources.append(source or "")
        path = spec.submodule_search_locations or ()
    _refuse_source(factory, module, attribute, sources[-1], str(spec.origin if spec else ""))


def no_module(factory: str, module: str, missing: str | None) -> ConfigError:
    """The error of a module that is not there: the task's own, or one that it imports."""
    remedy = "run in the folder that holds it or install it"
    if module.endswith(".py"):
        attribute = factory.partition(":")[2]
        remedy = f"it names a module, not a file: write {module.removesuffix('.py')}:{attribute}"
    elif missing is None or not f"{module}.".startswith(f"{missing}."):
        remedy = f"{module} imports it; install it"
    return ConfigError(f"task.factory = {factory!r}: there is no module {missing}: {remedy}")


def no_name(factory: str, module: str, attribute: str, names: Iterable[str], why: str = "") -> ConfigError:
    """The error of a class that is not in its module; without a `why` the nearest name is told."""
    near = difflib.get_close_matches(attribute, list(names), n=1)
    hint = why or (f": did you mean {near[0]}?" if near else "")
    return ConfigError(f"task.factory = {factory!r}: {module} has no {attribute}{hint}")


def path_with(folder: str) -> list[str]:
    """`sys.path` with a folder: before installed modules, and behind Python's own.

    A random.py there would else be what libraries get that load Python's later.
    """
    if folder in sys.path:
        return list(sys.path)
    own = sysconfig.get_path("stdlib")
    places = [place for place, entry in enumerate(sys.path) if entry == own or _is_inside(entry, own)]
    place = places[-1] + 1 if places else 0
    return [*sys.path[:place], folder, *sys.path[place:]]


def _is_inside(entry: str, own: str) -> bool:
    """Whether an entry of sys.path has more of Python's own modules, which those of packages are not."""
    return entry.startswith(f"{own}/") and not entry.endswith("-packages")


def _parents(module: str) -> Iterator[str]:
    """`a`, `a.b`, `a.b.c` of `a.b.c`."""
    parts = module.split(".")
    return (".".join(parts[: k + 1]) for k in range(len(parts)))


def _spec(name: str, path: Iterable[str]) -> ModuleSpec | None:
    """Where a module would be imported from; no code of it is run."""
    found = PathFinder.find_spec(name, list(path))
    if found is not None or "." in name:
        return found
    for finder in sys.meta_path:  # Python's own, and packages installed to be edited
        try:
            found = finder.find_spec(name, None)
        except ImportError:
            return None
        if found is not None:
            return found
    return None


def _source(spec: ModuleSpec, name: str) -> str | None:
    """The text of a module; None where it has none."""
    get_source = getattr(spec.loader, "get_source", None)
    try:
        text: str | None = None if get_source is None else get_source(name)
    except (ImportError, SyntaxError, UnicodeError, OSError):
        return None
    return text


def _refuse_source(factory: str, module: str, attribute: str, source: str, file: str) -> None:
    try:
        tree = ast.parse(source, file)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(
            f"task.factory = {factory!r}: importing {module} failed: {type(error).__name__}: {error}"
        ) from None
    path = path_with(str(Path.cwd()))
    for root in _imported(tree):
        if root not in sys.modules and _spec(root, path) is None:
            raise no_module(factory, module, root)
    names = _bound(tree)
    if attribute not in names and "*" not in names and not any(word in source for word in _DYNAMIC):
        there = [one.name for one in tree.body if isinstance(one, ast.ClassDef | ast.FunctionDef)]
        raise no_name(factory, module, attribute, there)


def _imported(tree: ast.Module) -> Iterator[str]:
    """The first parts of modules that a file imports in any case: at its top, under no condition."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def _bound(tree: ast.Module) -> set[str]:
    """All names that anything in a file binds: those of the module, and more."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
    return names
