"""What one record of a silo's file does to the silo's clipped sum, without noise and with no chance.

The claim bounds it: by one clipping norm where a record is added or removed, by two where it is replaced. A
fault in how data is handled shows here for certain, where canaries would have to be lucky: a record that
moves others (their scaling, their role, their gradients) moves the sum by their change as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.audit.tables import Rows, audited, classes_of, rows_of, write
from silofl.config import Config
from silofl.federation.silo import Silo
from silofl.federation.task_data import data_of_task
from silofl.privacy.grid import FLOAT_MARGIN
from silofl.tasks import registry as tasks
from silofl.tasks.user_code import UserCode

MOST_ROWS = 1000
"""Of a silo's records that probes are made with."""


@dataclass(frozen=True)
class Probed:
    """What the worst probe of a silo showed."""

    probes: int
    """How many were made."""
    norms: float
    """By how many clipping norms the sum moved at most, for each record that was added or removed."""
    others: int
    """How many other records changed, or changed their role, in the worst case."""

    @property
    def holds(self) -> bool:
        """Whether every record moved no more than its own gradient."""
        return self.norms <= 1 + FLOAT_MARGIN and not self.others

    def worst(self, other: Probed) -> Probed:
        """Both together."""
        return Probed(
            self.probes + other.probes, max(self.norms, other.norms), max(self.others, other.others)
        )


def probe(config: Config, silo: int, silos: int, folder: str, seed: int) -> Probed:
    """Probe the way from one silo's file to its clipped sum, through files in `folder`."""
    suffix = ".csv" if config.task.name == "files" else ".npz"
    at = audited(config, Path(folder), suffix)
    rows = rows_of(config, silo, silos)
    rows = Rows(rows.features[:MOST_ROWS], rows.labels[:MOST_ROWS], rows.columns)
    before, trained = _sum(at, silo, silos, rows)
    found = Probed(0, 0.0, 0)
    for other, removed, added in _neighbours(rows, len(classes_of(config)), seed):
        after, there = _sum(at, silo, silos, other)
        moved = float(torch.linalg.vector_norm(after - before)) / config.privacy.clip_norm
        gone, come = (trained - there).total(), (there - trained).total()
        others = max(0, gone - removed) + max(0, come - added)
        found = found.worst(Probed(1, moved / (removed + added), others))
    return found


def _sum(config: Config, silo: int, silos: int, rows: Rows) -> tuple[torch.Tensor, Counter[bytes]]:
    """The clipped sum (P,) of all records that train, at the untrained model; and those records."""
    write(config, silo, rows)
    task, code = tasks.build(config), UserCode(silo)
    data = data_of_task(task, silo, silos, code)
    made: Any = data.data.train
    x, y = made.tensors
    trained = Counter(
        one.tobytes() + label.tobytes() for one, label in zip(x.numpy(), y.numpy(), strict=True)
    )
    own = Silo(config, task, silo, silos, "cpu", code=code, data=data)
    gradients = own.clipped_gradients(config.privacy)
    try:
        total, _ = gradients.sum(np.arange(own.samples))
    finally:
        gradients.close()
    return total.double(), trained


def _neighbours(rows: Rows, classes: int, seed: int) -> Iterator[tuple[Rows, int, int]]:
    """Neighbouring tables, with how many records are removed and added: what an attacker would try."""
    rng, x, y = np.random.default_rng(seed), rows.features, rows.labels
    spread = np.ptp(x, axis=0) + 1
    column = int(np.argmax(spread))
    outliers = (
        x[rng.integers(len(x))] + 0.25 * spread,
        1e6 * spread,
        np.where(np.arange(len(spread)) == column, 1e6 * spread, x[rng.integers(len(x))]),
        np.zeros_like(spread),
    )
    for number, values in enumerate(outliers):
        place, label = int(rng.integers(len(x))), number % classes
        yield _replaced(rows, place, place, values, label), 0, 1
    for values in outliers[1:2]:
        place = int(rng.integers(len(x)))
        yield _replaced(rows, place, place + 1, values, int(y[place])), 1, 1
    for place in rng.integers(len(x), size=2).tolist():
        yield _replaced(rows, place, place + 1, x[place], int((y[place] + 1) % classes)), 1, 1
        yield Rows(np.delete(x, place, axis=0), np.delete(y, place), rows.columns), 1, 0


def _replaced(rows: Rows, first: int, behind: int, values: NDArray[np.float64], label: int) -> Rows:
    """With a record in place of those from `first` on and before `behind`."""
    x = np.concatenate([rows.features[:first], values[None], rows.features[behind:]])
    y = np.concatenate([rows.labels[:first], [label], rows.labels[behind:]])
    return Rows(x, y, rows.columns)
