"""What lies in a run directory for those who use its models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from silofl.errors import ConfigError, DataError
from silofl.inference.loading import load, personal_models
from silofl.inference.trained_model import TrainedModel


def summary_of_run(path: Path) -> dict[str, Any]:
    """What `summary.json` of a run directory has. Raises DataError where there is none."""
    try:
        found = json.loads((path / "summary.json").read_bytes())
    except (OSError, ValueError):
        raise DataError(f"{path} has no summary.json: it is no directory of a run that has ended") from None
    if not isinstance(found, dict):
        raise DataError(f"{path / 'summary.json'} is none that silofl writes")
    return found


def silos_of(path: Path, given: int | None) -> int:
    """How many silos a run had, or as many as are given. ConfigError where neither is known."""
    if given is not None:
        return given
    if not path.is_dir():
        raise ConfigError(f"how many silos? {path} is a file, and does not tell: give -n")
    silos = summary_of_run(path).get("silos")
    if not isinstance(silos, int):
        raise ConfigError(f"how many silos? {path / 'summary.json'} does not tell: give -n")
    return silos


def models_of(
    path: Path, silo: int | None, *, task: str | None = None, cross_site: bool = False
) -> Iterator[TrainedModel]:
    """The model of a run; with `cross_site` the shared one, where it is whole, and each personal one.

    Raises ConfigError where there is no personal model that could be compared; else errors as of `load`.
    """
    if not cross_site:
        yield load(path, silo, task=task)
        return
    if silo is not None:
        raise ConfigError("--cross-site is of all personal models, and --silo of one: leave one of them out")
    personal = personal_models(path) if path.is_dir() else []
    if not personal:
        raise ConfigError(f"{path} has no personal models, which --cross-site compares: leave it out")
    try:
        shared = load(path, task=task)
    except DataError:  # parts of it stay with each silo
        pass
    else:
        yield shared
    for number in personal:
        yield load(path, number, task=task)
