"""Where an institution's budget file lies, and whether it can lie there: found out before torch is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from silofl.config import Config, PrivacyConfig, for_silo
from silofl.errors import ConfigError

SUFFIX = ".budget.jsonl"
UNNAMED = "data"


def budget_path(privacy: PrivacyConfig) -> Path:
    """Where a silo's budget file lies. ConfigError for a name that is none of a file."""
    name = privacy.budget_name or UNNAMED
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) is None:
        raise ConfigError(
            f"privacy.budget_name = {name!r} is no name of a data set: use letters, digits, dots, - and _"
        )
    return Path(privacy.budget_dir) / f"{name}{SUFFIX}"


def refuse_unusable(config: Config, silos: Iterable[int], own: Callable[[int], Config] | None = None) -> None:
    """Raise ConfigError where files cannot be written in a silo's folder, or two of `silos` share a file.

    Nothing is made on the disk. `own` gives a silo's configuration where each has one.
    """
    owners: dict[Path, int] = {}
    for silo in silos:
        privacy = for_silo(config if own is None else own(silo), silo).privacy
        if not privacy.budget_dir:
            continue
        _refuse_unwritable(Path(privacy.budget_dir), silo)
        file = budget_path(privacy).resolve()
        if file in owners:
            raise shared(owners[file], silo, file)
        owners[file] = silo


def shared(one: int, other: int, file: Path) -> ConfigError:
    """The error of two silos of a run that count what they spend of their data as of one data set."""
    return ConfigError(
        f"silos {one} and {other} would both count in the budget file {file}, which is of one silo's data: "
        "write {silo} in privacy.budget_dir, or have each silo set its own"
    )


def _refuse_unwritable(folder: Path, silo: int) -> None:
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    why = ""
    if not there.is_dir():
        why = "is no folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        why = "is a folder in which this user may write nothing"
    if why:
        raise ConfigError(
            f"silo {silo}: no budget file can be written in privacy.budget_dir = {str(folder)!r}, for "
            f"{'it' if there == folder else there} {why}; name a folder of that silo's own",
            rank=silo,
        )
