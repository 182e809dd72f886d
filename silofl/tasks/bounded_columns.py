"""Sums of columns within public bounds, to which no record adds more than 1, and what noisy ones tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.column_kinds import Schema
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.scaling import Features, Scaling

Floats = NDArray[np.float64]
OTHERS = "*"
"""In `data.bounds`, of all columns that are not named."""
POWER = 30
"""Sums are of whole numbers of 2^-POWER, so that they do not depend on the order of records."""
ROWS = 1024
"""Images that are worked on at once."""


@dataclass(frozen=True)
class Bounded:
    """Columns of which values count within public bounds.

    Attributes:
        columns: their names, d; of images there is one.
        middle: (d,), finite.
        half: (d,), half the width between the bounds, above 0.
    """

    columns: tuple[str, ...]
    middle: tuple[float, ...]
    half: tuple[float, ...]

    def sums(self, features: Features, persons: NDArray[np.int64] | None) -> list[int]:
        """Over records: of each column u, then of each 2u^2 - 1, then 1; in steps of 2^-POWER: 2 d + 1.

        u is -1 and 1 at a column's bounds, and beyond; 0 of what is no number. An image counts by the means
        of its values', and where `persons` (n,) numbers from 0 whose a record is, a person by the means of
        its records'. So one record, or all of a person, add between -1 and 1 to each sum.
        """
        first, second = list[int](), list[int]()
        people = len(features) if persons is None else len(np.unique(persons))
        for u, squares in self._columns(features):
            first.append(_sum(u, persons))
            second.append(_sum(squares, persons))
        return [*first, *second, people << POWER]

    def sums_of_known(self, features: Features, persons: NDArray[np.int64] | None) -> list[int]:
        """`sums` of a table (n, d) without its last; what is no number adds nothing to either sum."""
        first, second = list[int](), list[int]()
        for column, (u, squares) in zip(features.T, self._columns(features), strict=True):
            first.append(_sum(u, persons))
            second.append(_sum(np.where(np.isnan(column), 0.0, squares), persons))
        return [*first, *second]

    def _columns(self, features: Features) -> Iterator[tuple[Floats, Floats]]:
        """Of each column (n,): u, and 2u^2 - 1."""
        if features.ndim == 2:
            for column, middle, half in zip(features.T, self.middle, self.half, strict=True):
                u = _within(column, middle, half)
                yield u, 2 * u * u - 1
            return
        means = np.empty((2, len(features)))
        for first in range(0, len(features), ROWS):
            rows = features[first : first + ROWS]
            u = _within(rows.reshape(len(rows), -1), self.middle[0], self.half[0])
            means[:, first : first + ROWS] = u.mean(axis=1), (2 * u * u - 1).mean(axis=1)
        yield means[0], means[1]

    def scaling(self, sums: Floats, deviation: float) -> Scaling:
        """Mean and deviation by noisy `sums` (2 d + 1,) in units of a record.

        A variance that is less than the noise on it, whose standard deviation in each sum is `deviation`, is
        taken to be as large as that: dividing by less would blow up noise.

        Raises:
            DataError: sums that are no numbers, such as of a silo that lies about its own.
        """
        if not np.isfinite(sums).all():
            raise DataError(
                "data.standardize = \"federated\": what all silos' columns add up to is no number: a silo's "
                "numbers are wrong or a lie; nothing was scaled",
                rank=0,
            )
        count = max(float(sums[-1]), 1.0)
        first, second = np.split(np.clip(sums[:-1] / count, -1.0, 1.0), 2)
        noise = deviation / count
        least = np.minimum(noise * np.sqrt(0.25 + 4 * first * first), 1.0)
        variance = np.maximum((second + 1) / 2 - first * first, least)
        half = np.array(self.half)
        center, scale = np.array(self.middle) + first * half, np.sqrt(variance) * half
        return Scaling(self.columns, tuple(center.tolist()), tuple(scale.tolist()))


def bounded(data: DataConfig, schema: Schema) -> Bounded:
    """Columns with their bounds in `data.bounds`, which has all: see `mistaken_bounds`."""
    table, names = _tidied(data), tuple(name for name, _ in schema)
    pairs = [table.get(name, table.get(OTHERS)) for name in names]
    known = [pair for pair in pairs if pair is not None]
    assert len(known) == len(names), "refused when the columns were read"
    middle = tuple(low / 2 + high / 2 for low, high in known)
    return Bounded(names, middle, tuple(high / 2 - low / 2 for low, high in known))


def mistaken_bounds(data: DataConfig, schema: Schema) -> list[str]:
    """What is wrong with the names in `data.bounds`, as parts of a sentence."""
    if not data.bounds:
        return []
    table, known = _tidied(data), {name for name, _ in schema}
    nameless = "" in known
    wrong = [
        f"data.bounds has {name!r}, which is no column of features: "
        + ("name the file's columns in an array 'columns'" if nameless else "correct the name or remove it")
        for name in table
        if name != OTHERS and (nameless or name not in known)
    ]
    missing = sorted(known - set(table)) if OTHERS not in table else []
    if missing:
        names = ", ".join(map(repr, missing[:3])) + (" and others" if len(missing) > 3 else "")
        wrong.append(f'data.bounds has none of {names}: add them, or "{OTHERS}" for all columns not named')
    return wrong


def _tidied(data: DataConfig) -> dict[str, Sequence[float]]:
    return {tidy(name): pair for name, pair in data.bounds.items()}


def _within(values: NDArray[np.floating[Any]], middle: float, half: float) -> Floats:
    """(values - middle) / half between -1 and 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        u: Floats = (values.astype(np.float64) - middle) / half
    return np.clip(np.where(np.isnan(u), 0.0, u), -1.0, 1.0)


def _sum(values: Floats, persons: NDArray[np.int64] | None) -> int:
    """Exactly, of values (n,), or of the means of a person's, in steps of 2^-POWER, none beyond 1."""
    if persons is not None and len(values):
        values = np.bincount(persons, weights=values) / np.bincount(persons)
    return int(np.rint(np.ldexp(np.clip(values, -1.0, 1.0), POWER)).astype(np.int64).sum())
