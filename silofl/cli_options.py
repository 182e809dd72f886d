"""Arguments that several commands of `silofl` have, under one name in all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from silofl import config as configuration

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
Ranks = Annotated[int, typer.Option("-n", "--silos", min=1, max=MOST_RANKS, help="How many silos.")]


def load(path: Path, overrides: list[str] | None, run: str) -> configuration.Config:
    """The configuration of a command; `run` is its run directory, where it names one."""
    return configuration.load(path, overrides, {"dir": run} if run else {})
