"""Weights of classes and labels as a configuration gives them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silofl.config import TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.rows import some
from silofl.tasks.scaling import MOST_VALUES


def given_weights(task: TaskConfig, names: Sequence[str]) -> tuple[float, ...]:
    """Those of a table in `task.class_weights`, in the order of names; empty where there is no table.

    Raises ConfigError, naming them, where it has other names.
    """
    table = task.class_weights
    if not isinstance(table, dict):
        return ()
    by_name = {tidy(name): value for name, value in table.items()}
    wrong = sorted(by_name.keys() ^ {tidy(name) for name in names})
    if wrong:
        raise ConfigError(
            f"task.class_weights has to have a weight for each of {some(list(names))}, and is wrong about "
            f"{some(wrong)}: add it, or take it out"
        )
    return tuple(float(by_name[tidy(name)]) for name in names)


def refuse_impossible(counts: NDArray[np.float64], records: float) -> None:
    """Raise DataError for counts over silos that no `records` can have: they are whole, and none is above."""
    whole = np.isfinite(counts).all() and bool((counts == np.rint(counts)).all())
    if not (whole and (counts >= 0).all() and (counts <= records).all() and 1 <= records < MOST_VALUES):
        raise DataError(
            'task.class_weights = "balanced": what all silos\' counts add up to no records can have: '
            "a silo's numbers are wrong or a lie",
            rank=0,
        )


def refuse_idle_keys(task: TaskConfig, head: str, keys: Sequence[str]) -> None:
    """Raise ConfigError for a key of [task] that is set and that a head makes nothing of."""
    for key in keys:
        if getattr(task, key) is not None:
            raise ConfigError(f"task.{key} is set, and task.head = {head!r} makes nothing of it: remove it")
