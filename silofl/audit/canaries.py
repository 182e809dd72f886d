"""Canaries: records of which each has a column of its own, so that each moves coordinates that no other does.

A canary is an outlier in its column, zero in all others; its label is a class in turn. Its clipped gradient
lies, but for a little, in the weights of its column: the strongest that the claim allows, for the noise there
is all that hides it. What stands in its place where its coin says so is what the claim's neighbours say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.audit.tables import Rows, audited, classes_of, rows_of, write
from silofl.config import Config
from silofl.tasks.holdout import held_out

NOTHING = 3e38
"""So large that a gradient of it is infinite: such a record counts as zero, and is counted as one."""
_STRENGTH = 16.0
"""Of a canary's value, in clipping norms: beside it the gradient of all else is small."""
_TRIES = 40


@final
@dataclass(frozen=True)
class Canaries:
    """Where the canaries of all silos are."""

    there: NDArray[np.bool_]
    """(m,), the coins."""
    values: NDArray[np.float64]
    """(m,), of each in its column."""
    labels: NDArray[np.int64]
    """(m,), class numbers."""
    first: int
    """The number of the first canary's column; the others follow in their order."""

    def __len__(self) -> int:
        return len(self.there)


def insert(config: Config, silos: int, canaries: int, folder: str, seed: int) -> tuple[Config, Canaries]:
    """Write every silo's rows with its canaries into files; the configuration that trains on those.

    Canaries go to silos in turn. They are such as train: of what is held out no bound speaks.
    """
    rng = np.random.default_rng([seed, canaries])
    at = audited(config, Path(folder), ".npz")
    every = [rows_of(config, silo, silos) for silo in range(silos)]
    classes, count = len(classes_of(config)), every[0].features.shape[1]
    names = [f"~canary_{number:06d}" for number in range(canaries)]  # sorted behind the data's own
    order = np.argsort([*every[0].columns, *names], kind="stable")
    found = Canaries(
        rng.random(canaries) < 0.5,
        _STRENGTH * max(config.privacy.clip_norm, 1.0) * (1 + rng.random(canaries)),
        np.arange(canaries) % classes,
        count,
    )
    for silo, rows in enumerate(every):
        wide = rows.with_columns(names)
        wide = Rows(wide.features[:, order], wide.labels, tuple(np.array(wide.columns)[order].tolist()))
        write(at, silo, _with(config, wide, found, np.arange(silo, canaries, silos), rng))
    return at, found


def _with(
    config: Config, rows: Rows, found: Canaries, mine: NDArray[np.int64], rng: np.random.Generator
) -> Rows:
    """A silo's rows with its canaries, or with what stands in their place."""
    relation, there = config.privacy.neighbours, found.there[mine]
    if relation == "add-remove":
        mine, there = mine[there], there[there]
    values = np.zeros((len(mine), rows.features.shape[1]))
    left = np.arange(len(mine))
    for _ in range(_TRIES):
        columns = found.first + mine[left]
        own = found.values[mine[left]] * (1 + 1e-3 * rng.random(len(left)))  # roles hang on the last digits
        absent = (
            -own
            if relation == "replace-one"
            else np.full(len(left), NOTHING) * (1 - 0.1 * rng.random(len(left)))
        )
        values[left, columns] = np.where(there[left], own, absent).astype(np.float32)
        held = held_out(values[left], found.labels[mine[left]], config.data.test_fraction, config.run.seed)
        left = left[held]
        if not len(left):
            break
    return rows.joined(values, found.labels[mine])
