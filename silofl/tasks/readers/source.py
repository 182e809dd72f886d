"""Where a silo's samples come from, and how reading them can fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError, MissingDependencyError, SiloflError


class Source(NamedTuple):
    """A silo's file or folder; as text, how error messages call it."""

    path: Path
    silo: int

    def __str__(self) -> str:
        """`PATH (silo 3)`."""
        return f"{self.path} (silo {self.silo})"


class Samples(NamedTuple):
    """What a reader returns: n samples with finite features and a label each."""

    features: NDArray[np.floating[Any]]
    """(n, d) for a table, (n, 1, height, width) for grey images."""
    labels: NDArray[Any]
    """(n,) numbers or words as they stand in the file, none missing."""


class Options(NamedTuple):
    """What a reader is told about the file."""

    label_column: str
    image_size: tuple[int, int]
    """(height, width)."""


Reader = Callable[[Source, Options], Samples]


@contextmanager
def reading(source: Source, kind: str) -> Iterator[None]:
    """Turn whatever a file library raises within into one DataError that names the file."""
    try:
        yield
    except SiloflError:
        raise
    except FileNotFoundError:
        raise DataError(f"{source} does not exist: check data.path") from None
    except PermissionError:
        raise DataError(f"{source} may not be read: permission denied") from None
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"{source} cannot be read as {kind}, it is damaged or something else "
            f"({first or type(error).__name__})"
        ) from error


def optional(module: str, purpose: str) -> ModuleType:
    """Import a module of the extra `files`. Raises MissingDependencyError."""
    try:
        return import_module(module)
    except ImportError as error:
        package = {"PIL": "pillow"}.get(module.partition(".")[0], module.partition(".")[0])
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install 'silofl[files]'"
        ) from error
