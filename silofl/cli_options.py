"""Arguments that several commands of `silofl` have, under one name in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silofl.config import settings
from silofl.config.settings import Settings

ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="TOML configuration, such as launch/digits.toml.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one key.")
]
Run = Annotated[str, typer.Option(help="Run directory; runs/<config name> when not given.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last committed round.")]
MOST_RANKS = 10_000
"""Of one command: what is looked at for each, such as its files, is done within seconds."""
Ranks = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--silos",
        min=1,
        max=MOST_RANKS,
        help="How many silos; as many as [[institution]] in CONFIG, or 4.",
    ),
]


def load(path: Path, overrides: list[str] | None, run: str) -> Settings:
    """The configuration of a command; `run` is its run directory, where it names one."""
    return settings.load(path, overrides, {"dir": run} if run else {})


def new_file(path: Path, *read: Path) -> Path:
    """The path, whose folder is there, and which is a file if it is anything, and none that is read.

    It is renamed into its place, which a device or a pipe would not outlive. ConfigError where it is not.
    """
    from silofl.errors import ConfigError

    if path.is_symlink() or (path.exists() and not path.is_file()):  # as /dev/stdout
        raise ConfigError(f"{path} is no file, but a link or another thing: name one, or give - to print")
    if any(path.exists() and one.exists() and path.samefile(one) for one in read):
        raise ConfigError(f"{path} has the data, which would be lost: name another file")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for {path.name}: make it, or name another")
    return path
