"""Where a silo's samples come from, what reading gives, and how it can fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.config import TaskConfig
from silofl.errors import DataError, MissingDependencyError, SiloflError
from silofl.tasks.column_kinds import Schema
from silofl.tasks.readers.column_roles import ColumnRoles, tidy

FLOAT_BYTES = 8
"""Features become float64."""
_MOST_PROBLEMS = 12
NUMBER, TRUTH, CATEGORIES, TARGET = "numbers", "truth values", "categories", "target"
"""Kinds of columns."""
_UNIT = " in "
"""Between the kind of a column and its unit."""


class Source(NamedTuple):
    """A silo's file or folder; as text, how error messages call it."""

    path: Path
    silo: int

    def __str__(self) -> str:
        """`PATH (silo 3)`."""
        return f"{self.path} (silo {self.silo})"


class Samples(NamedTuple):
    """What a reader returns: n samples and what is wrong with them."""

    features: NDArray[np.floating[Any]]
    """(n, d) for a table, (n, channels, height, width) for images; finite where there is no problem."""
    labels: NDArray[Any]
    """(n,) class numbers int64; -1 where there is none, which is a problem. Of a target of numbers float64
    (n, its columns)."""
    schema: tuple[tuple[str, str], ...]
    """Name and kind of each column of features, in their order; an empty name where the file has none."""
    problems: tuple[str, ...] = ()
    """Why they cannot be trained on: parts of a sentence, each with its remedy and without any value."""
    notices: tuple[str, ...] = ()
    """What was passed over or taken for something, likewise."""
    own: tuple[str, ...] = ()
    """What helps to find the problems and may be a value, such as names of files: for the silo alone."""
    owners: NDArray[np.uint64] | None = None
    """(n, 2) keyed digests of whose each sample is, where that was asked for: see `readers.owners`."""
    passed_over: tuple[str, ...] = ()
    """Names of columns that are no features, as [data] says."""
    texts: Mapping[str, Mapping[float, str]] = MappingProxyType({})
    """Of each column of categories, what the numbers in `features` stand for: see `category_key`."""
    targets: tuple[tuple[str, str], ...] = ()
    """Name and kind, with its unit, of each column of a target of numbers."""


class Options(NamedTuple):
    """What a reader is told about the file."""

    task: TaskConfig
    """Label column, classes, size of images."""
    decimal: Literal[".", ","] = "."
    """What stands before the decimals in text."""
    units: Mapping[str, str] = MappingProxyType({})
    """Of columns, by name, as this silo declares them."""
    constants: Mapping[str, str] = MappingProxyType({})
    """Columns of one value that a table has from the names of its folders."""
    owner: str = ""
    """The column that says whose a sample is; empty where that is not asked."""
    owner_key: bytes = b""
    """See `readers.owners.owner_key`."""
    roles: ColumnRoles = ColumnRoles()
    """What becomes of which column."""

    @property
    def label(self) -> str:
        """The name of the label's column; empty where the target is numbers."""
        return self.roles.target


def unit_of(kind: str) -> str:
    """That in a column's kind; empty where it has none."""
    return kind.partition(_UNIT)[2]


def with_units(samples: Samples, units: Mapping[str, str]) -> Samples:
    """Samples whose columns have the declared units, by name, in their kinds, which silos compare."""
    wanted = {tidy(name): tidy(unit) for name, unit in units.items()}
    known = dict(samples.schema) | dict(samples.targets)
    problems = [
        f"data.units has {name!r}, which is no column of features: correct the name or remove it"
        for name in wanted
        if name not in known
    ]
    schema = []
    for name, kind in (*samples.schema, *samples.targets):
        base, _, own = kind.partition(_UNIT)
        unit = wanted.get(name, "") or own
        if own and unit != own:
            problems.append(
                f"column {name!r} is in {own} by the file, and in {unit} by data.units: correct one"
            )
        schema.append((name, f"{base}{_UNIT}{unit}" if unit else base))
    many = len(samples.schema)
    targets = tuple(schema[many:])
    return samples._replace(
        schema=tuple(schema[:many]), targets=targets, problems=(*samples.problems, *problems)
    )


def without_targets(samples: Samples, names: Sequence[str]) -> Samples:
    """Samples whose columns of a target are no features any more, but labels (n, k) in the order of names."""
    place = {name: k for k, (name, _) in enumerate(samples.schema)}
    if not samples.problems and all(name in place for name in names):
        chosen = [place[name] for name in names]
        kept = [k for k in range(len(samples.schema)) if k not in chosen]
        samples = samples._replace(
            features=samples.features[:, kept],
            labels=samples.features[:, chosen].astype(np.float64),
            schema=tuple(samples.schema[k] for k in kept),
            targets=tuple(samples.schema[k] for k in chosen),
        )
    return samples._replace(targets=tuple((name, _of_target(samples.targets, name)) for name in names))


def _of_target(targets: Schema, name: str) -> str:
    unit = unit_of(dict(targets).get(name, ""))
    return f"{TARGET}{_UNIT}{unit}" if unit else TARGET


Reader = Callable[[Source, Options], Samples]


@contextmanager
def reading(source: Source, kind: str, *, told: bool = True) -> Iterator[None]:
    """Turn whatever a file library raises within into one DataError that names the file.

    `told`: with the library's own message, which must hold no value of the file.
    """
    try:
        yield
    except (SiloflError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{source} does not exist: check data.path") from None
    except PermissionError:
        raise DataError(f"{source} may not be read: permission denied") from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0] if told else ""
        raise DataError(
            f"{source} cannot be read as {kind}, it is damaged or something else "
            f"({first or type(error).__name__})"
        ) from (error if told else None)


def refuse(source: Source, problems: Sequence[str], own: Sequence[str] = ()) -> None:
    """Raise DataError, all problems in one sentence, if there are any; `own`: see `Samples`."""
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        listed = [*problems[:_MOST_PROBLEMS], *([f"{more} further problem(s)"] if more > 0 else [])]
        raise DataError(f"{source} cannot be trained on: {'; '.join(listed)}", own="; ".join(own))


def refuse_huge(source: Source, values: int, what: str) -> None:
    """Raise DataError where so many values do not fit in memory: a small file may stand for them."""
    needed, there = values * FLOAT_BYTES, memory_bytes()
    if needed > there:
        raise DataError(
            f"{what} of {source} would take {needed / 2**30:,.1f} GiB, and "
            f"this machine has {there / 2**30:,.1f} GiB: give fewer samples"
        )


def memory_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def optional(module: str, purpose: str) -> ModuleType:
    """Import a module of the extra `files`. Raises MissingDependencyError."""
    try:
        return import_module(module)
    except ImportError as error:
        raise _uninstalled(module, purpose) from error


def refuse_uninstalled(library: str, purpose: str) -> None:
    """Raise the MissingDependencyError that `optional` would, without importing the library."""
    try:
        found = find_spec(library) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise _uninstalled(library, purpose)


def _uninstalled(module: str, purpose: str) -> MissingDependencyError:
    root = module.partition(".")[0]
    package = {"PIL": "pillow"}.get(root, root)
    return MissingDependencyError(
        f"{purpose} needs {package}, which is not installed: pip install 'silofl[files]'"
    )
