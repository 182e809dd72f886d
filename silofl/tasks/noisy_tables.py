"""Statistics of all silos' tables together by one noisy sum: what a silo brings to it, and what it tells.

Of each column of numbers a record is in one cell: a bin, below or above them, or missing. Of each column of
categories, and of the target, likewise. Beside these a column has the sums of u and of 2u^2 - 1, where u is
-1 and 1 at its bounds. A person with many records counts once, in cells by the part of its records there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.bounded_columns import Bounded, bounded, mistaken_bounds
from silofl.tasks.heads import Head
from silofl.tasks.readers import Samples
from silofl.tasks.readers.category_texts import (
    MISSING_CATEGORY,
    OTHER_CATEGORY,
    category_place,
    category_text,
)
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.recipe_making import is_categorical, numeric_places, numeric_schema, raw_columns
from silofl.tasks.table_statistics import QUANTILES, in_order

Floats = NDArray[np.float64]
Json = dict[str, Any]
FEWEST = 3.0
"""Deviations of the noise that a count has to be above for a mean of so many to be told."""


@dataclass(frozen=True)
class NoisyTable:
    """What is asked of a table, by what is public of it: the same at every silo.

    Attributes:
        head: what is learnt, which knows the target.
        bounds: of columns of numbers, those of the target last.
        categories: by name, of columns of features.
        bins: of each histogram.
    """

    head: Head
    bounds: Bounded
    categories: Mapping[str, Sequence[str]]
    bins: int

    def partitions(self, samples: Samples) -> list[tuple[NDArray[np.int64], int]]:
        """Each partition's cell of every record (n,), and how many cells it has.

        Of columns of numbers, of categories, of the target's columns of few values, of its classes.
        """
        found = [
            (_bins(column, self._edges(k)), self.bins + 3)
            for k, column in enumerate(_numbers(self.head, samples).T)
        ]
        raw = raw_columns(samples)
        for name, listed in self.categories.items():
            assert isinstance(raw, dict), "a table with categories has columns by name"
            places = map(category_place(listed), raw[name].tolist())
            found.append((np.array([*places], np.int64), len(listed)))
        for one in self.head.counted(samples.labels):
            found.append((one.codes.astype(np.int64), len(one.values)))
        if self.head.of_classes:
            found.append((samples.labels.astype(np.int64), len(self.head.names)))
        return found

    def _edges(self, k: int) -> Floats:
        """Of the bins of a column of numbers, (bins + 1,), as they are told."""
        middle, half = self.bounds.middle[k], self.bounds.half[k]
        return np.linspace(middle - half, middle + half, self.bins + 1)

    def moments(self, samples: Samples, persons: NDArray[np.int64] | None) -> list[int]:
        """Sums of this silo's records in steps of 2^-POWER, as of `Bounded.sums`; none of a missing value."""
        return self.bounds.sums_of_known(_numbers(self.head, samples), persons)

    def cells(self, samples: Samples, persons: NDArray[np.int64] | None, unit: int) -> list[int]:
        """How many of this silo's records, or persons, are in each cell, in units of 1 / `unit`.

        A person adds `unit` to all cells of a partition together at most: whole numbers below its parts.
        """
        every = [_counts(*one, persons, unit) for one in self.partitions(samples)]
        return [count for counts in every for count in counts]

    def told(self, samples: Samples, sums: Floats, deviation: float) -> Json:
        """What noisy `sums` say, moments, cells and records, with noise of that deviation in each.

        Of `samples` no more than the columns is looked at. DataError where sums are no numbers.
        """
        if not np.isfinite(sums).all():
            raise DataError(
                "what all silos' columns add up to is no number: a silo's numbers are wrong or a lie", rank=0
            )
        many, columns = float(sums[-1]), len(self.bounds.columns)
        first, second = sums[:columns], sums[columns : 2 * columns]
        few, kinds = self.head.counted(samples.labels), dict(samples.targets)
        sizes = [size for _, size in self.partitions(samples)]
        cells = np.split(sums[2 * columns : -1], np.cumsum(sizes)[:-1])
        targets = [*self.head.numbers(samples.labels)]
        kind_of = [kind for _, kind in numeric_schema(samples.schema)] + [kinds[name] for name in targets]
        numbers = [
            {"kind": kind_of[k], **self._numeric(k, many, (first[k], second[k]), cells[k], deviation)}
            for k in range(columns)
        ]
        listed = [*self.categories.values(), *(one.values for one in few)]
        counted = [
            {"kind": "categories", "counts": dict(zip(values, _whole(counts), strict=True))}
            for values, counts in zip(listed, cells[columns : columns + len(listed)], strict=True)
        ]
        named = [*targets, *(one.name for one in few)]
        found = {
            "samples": max(round(many), 0),
            "noise": deviation,
            "columns": in_order(samples, named, numbers, counted),
        }
        if self.head.of_classes:
            found["classes"] = dict(zip(self.head.names, _whole(cells[-1]), strict=True))
        return found

    def _numeric(
        self, k: int, many: float, moments: tuple[float, float], cells: Floats, deviation: float
    ) -> Json:
        edges = self._edges(k)
        missing, below, *inside, above = _whole(cells)
        there = many - float(cells[0])
        known = there > FEWEST * deviation
        mean, square = np.clip(np.array(moments) / there, -1, 1) if known else (math.nan, math.nan)
        variance, half = (square + 1) / 2 - mean * mean, self.bounds.half[k]
        told = known and variance > deviation / there * math.sqrt(0.25 + 4 * mean * mean)  # the noise on it
        return {
            "count": min(max(round(there), 0), max(round(many), 0)),
            "missing": missing,
            "mean": float(self.bounds.middle[k] + mean * half) if known else None,
            "mean_noise": deviation / there * half if known else None,
            "deviation": math.sqrt(variance) * half if told else None,
            "histogram": {"edges": edges.tolist(), "below": below, "counts": inside, "above": above},
            "quantiles": _quantiles(cells[1:], edges) if known else dict.fromkeys(map(_key, QUANTILES)),
        }


def noisy_table(
    data: DataConfig, samples: Samples, head: Head, bins: int, ranges: Mapping[str, Any]
) -> NoisyTable:
    """What is asked of tables with such columns, with values within `ranges`, by name or for "*".

    ConfigError where a column of numbers has no public bounds, or categories are not listed.
    """
    every, kinds = data.model_copy(update={"bounds": dict(ranges)}), dict(samples.targets)
    numbers = [
        *numeric_schema(samples.schema),
        *((name, kinds[name]) for name in head.numbers(samples.labels)),
    ]
    nothing = [f"nothing says between which bounds {name!r} is" for name, _ in numbers[:1]]
    for wrong in mistaken_bounds(every, numbers) if every.bounds else nothing:
        raise ConfigError(
            f"{wrong}; under [privacy] statistics are of values within publicly known bounds, which "
            "data.bounds or --range COLUMN=LOW:HIGH gives for every column of numbers"
        )
    listed = {tidy(name): one for name, one in data.categorical.items()}
    more = (MISSING_CATEGORY, OTHER_CATEGORY)
    names = [name for name, kind in samples.schema if is_categorical(kind)]
    categories = {name: list(dict.fromkeys([*map(category_text, listed[name]), *more])) for name in names}
    return NoisyTable(head, bounded(every, numbers), categories, bins)


def _numbers(head: Head, samples: Samples) -> NDArray[Any]:
    features = samples.features[:, numeric_places(samples.schema)]
    return np.column_stack([features, *head.numbers(samples.labels).values()])


def _bins(values: NDArray[Any], edges: Floats) -> NDArray[np.int64]:
    """Cells of values (n,): 0 is missing, 1 below, then bins as of `np.histogram`, the last above."""
    place = np.searchsorted(edges, values.astype(np.float64), side="right") + 1
    place[values == edges[-1]] = len(edges)
    place[np.isnan(values)] = 0
    return place.astype(np.int64)


def _counts(place: NDArray[np.int64], size: int, persons: NDArray[np.int64] | None, unit: int) -> list[int]:
    if persons is None:
        found: list[int] = (np.bincount(place, minlength=size) * unit).tolist()
        return found
    records = np.bincount(persons)
    pairs, times = np.unique(persons * size + place, return_counts=True)
    whole = np.zeros(size, np.int64)
    np.add.at(whole, pairs % size, times * unit // records[pairs // size])
    return list(map(int, whole))


def _whole(counts: Floats) -> list[int]:
    return [max(round(one), 0) for one in counts.tolist()]


def _key(part: float) -> str:
    return f"{part:g}"


def _quantiles(counts: Floats, edges: Floats) -> dict[str, float | None]:
    """By noisy counts below, in and above bins, whose running sums are made to never fall; None beyond."""
    from sklearn.isotonic import isotonic_regression  # late: ranks that train do without

    running = np.maximum(isotonic_regression(np.cumsum(counts)), 0)
    found = dict[str, float | None]()
    for part in QUANTILES:
        wanted = part * running[-1]
        place = int(np.searchsorted(running, wanted)) - 1
        if not 0 <= place < len(edges) - 1:
            found[_key(part)] = None
            continue
        width = running[place + 1] - running[place]
        inside = (wanted - running[place]) / width
        found[_key(part)] = float(edges[place] + inside * (edges[place + 1] - edges[place]))
    return found
