"""Keys that name files of one institution: each sets its own, and `{silo}` in them is its number."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from silofl.errors import ConfigError

_VARIABLE = re.compile(r"\$(?:\$|(?P<plain>[A-Za-z_]\w*)|\{(?P<braced>[A-Za-z_]\w*)\})")
_folder: ContextVar[Path] = ContextVar("folder", default=Path())
LOCAL_PATHS = (
    ("run", "dir"),
    ("task", "weights"),
    ("data", "path"),
    ("secure", "identity"),
    ("secure", "passphrase_file"),
    ("secure", "roster"),
    ("checkpoint", "key_file"),
    ("privacy", "budget_dir"),
)
"""Every key whose value is a path."""


@contextmanager
def relative_to(folder: Path) -> Iterator[None]:
    """Let relative paths be below `folder` in this thread, wherever a user's task may go in the block."""
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)


def silo_path(text: str, silo: int, key: str = "a path") -> Path:
    """The path that a key names for a silo: `{silo}` is its number, `~` the user's home folder.

    `$NAME` and `${NAME}` are variables of the environment, and `$$` is a dollar sign. Raises ConfigError,
    which names `key`, for a variable or a home folder that is not there.
    """

    def value(match: re.Match[str]) -> str:
        name = match["plain"] or match["braced"]
        if name and name not in os.environ:
            raise ConfigError(
                f"{key} = {text!r}: the environment of silo {silo} has no {name}; set it, or write $$ for a "
                "dollar sign"
            )
        return os.environ[name] if name else "$"

    expanded = _VARIABLE.sub(value, text.replace("{silo}", str(silo)))
    try:
        return _folder.get() / Path(expanded).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{key} = {text!r}: silo {silo} knows no home folder for {Path(expanded).parts[0]}; "
            "write the folder itself"
        ) from None
