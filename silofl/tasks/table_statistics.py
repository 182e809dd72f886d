"""Statistics of all silos' tables together, by sums: one generator a silo, as of `column_agreement.py`.

Quantiles are of bins: between the mean and four deviations on both sides of it, which no single value
decides, or between bounds that are publicly known.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.category_union import SIZE, frequent, table_of, texts_of
from silofl.tasks.heads import Head
from silofl.tasks.readers import Samples
from silofl.tasks.readers.category_texts import MISSING_CATEGORY, OTHER_CATEGORY, category_place
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.source import unit_of
from silofl.tasks.recipe_making import is_categorical, numeric_places, raw_columns
from silofl.tasks.scaling import MOST_VALUES, first_sums, mean_of

Floats = NDArray[np.float64]
Json = dict[str, Any]
WIDTH = 4.0
"""Deviations on each side of the mean between which there are bins, where no bounds are given."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Shown:
    """What is shown of tables.

    Attributes:
        bins: of each histogram.
        ranges: bounds of columns that are publicly known, by name.
        least: counts below it, and what so few records decide, are not shown.
        seed: of the table of categories; the same at every silo.
    """

    bins: int = 32
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    least: int = 5
    seed: int = 0

    def count(self, value: float) -> int | None:
        """A count; None where it is of too few records."""
        return int(value) if value == 0 or value >= self.least else None

    def counts(self, values: Sequence[float]) -> list[int | None]:
        """Counts of parts of a known whole; None where one is of too few records, or others would tell it.

        A part is the whole without the others, and parts that make up a small sum are told by it. So the
        smallest parts that could be shown are hidden, too, until the hidden sum leaves some choice
        (complementary suppression).
        """
        hidden = {place for place, one in enumerate(values) if 0 < one < self.least}
        others = [place for place in np.argsort(values, kind="stable").tolist() if values[place] > 0]
        for place in (place for place in others if place not in hidden):
            rest = sum(values[one] for one in hidden) - len(hidden)
            if not hidden or (len(hidden) > 1 and rest >= self.least):
                break
            hidden.add(place)
        return [None if place in hidden else int(one) for place, one in enumerate(values)]


def table_statistics(
    data: DataConfig, samples: Samples, head: Head, shown: Shown
) -> Generator[Floats, Floats, Json]:
    """Counts, means, deviations, histograms, quantiles and the target, of all silos together.

    Raises:
        DataError: sums that records cannot have, or a column of too many categories.
    """
    categories = yield from _categories(data, samples, shown)
    places = numeric_places(samples.schema)
    targets, kinds = head.numbers(samples.labels), dict(samples.targets)
    numbers = np.column_stack([samples.features[:, places], *targets.values()])
    names = [*(samples.schema[place][0] for place in places), *targets]
    counted = [_counts(samples, name, listed) for name, listed in categories.items()]
    classes = head.names if head.of_classes else ()
    labels = np.bincount(samples.labels if classes else [], minlength=len(classes)).astype(np.float64)
    few = head.counted(samples.labels)
    counted += [np.bincount(one.codes, minlength=len(one.values)).astype(np.float64) for one in few]
    first = yield np.concatenate([first_sums(numbers), labels, *counted])
    if not (np.isfinite(first).all() and 1 <= first[0] < MOST_VALUES):
        raise _impossible()
    widths = [1 + 2 * len(names), len(classes), *map(len, counted)]
    sums, of_classes, *of_categories = np.split(first, np.cumsum(widths)[:-1])
    there, mean = sums[1 : 1 + len(names)], mean_of(sums)
    second = yield _second_sums(numbers, mean)
    apart, squares = np.split(second, 2)
    mean = mean + apart / np.maximum(there, 1)
    rest = np.maximum(squares - apart**2 / np.maximum(there, 1), 0)
    deviation = np.sqrt(rest / np.maximum(there - 1, 1))
    edges = [
        _edges(shown, name, head.least(name) if name in targets else -np.inf, *one)
        for name, *one in zip(names, mean.tolist(), deviation.tolist(), strict=True)
    ]
    bins = yield np.concatenate([*map(_histogram, numbers.T, edges), np.zeros(1)])
    if not np.isfinite([*second, *bins]).all():
        raise _impossible()
    numeric = []
    for k, kind in enumerate(
        [*(samples.schema[place][1] for place in places), *(kinds[name] for name in targets)]
    ):
        counts = bins[k * (shown.bins + 2) :][: shown.bins + 2]
        one = _numeric(shown, sums[0], there[k], (mean[k], deviation[k]), counts, edges[k])
        numeric.append({"kind": kind, **one})
    listed_in = zip([*categories.values(), *(one.values for one in few)], of_categories, strict=True)
    counts_told = [_of_categories(shown, *one) for one in listed_in]
    named = [*targets, *(one.name for one in few)]
    told: Json = {
        "samples": shown.count(sums[0]),
        "least_count": shown.least,
        "columns": in_order(samples, named, numeric, counts_told),
    }
    if classes:
        told["classes"] = dict(zip(classes, shown.counts(of_classes.tolist()), strict=True))
    return told


def in_order(
    samples: Samples, target: Sequence[str], numbers: Sequence[Json], counted: Sequence[Json]
) -> list[Json]:
    """What is told of columns of numbers and of those that are counted, in the order of the table's.

    The features' come first in both, then those of `target`: its columns of numbers and its counted ones.
    """
    of_numbers, of_counted, features = iter(numbers), iter(counted), list[Json]()
    for name, kind in samples.schema:
        one = next(of_counted if is_categorical(kind) else of_numbers)
        features.append({"name": name, "unit": unit_of(kind), **one})
    found = dict(zip(target, [*of_numbers, *of_counted], strict=True))
    return features + [{"name": name, "unit": unit_of(kind), **found[name]} for name, kind in samples.targets]


def _categories(
    data: DataConfig, samples: Samples, shown: Shown
) -> Generator[Floats, Floats, dict[str, list[str]]]:
    """Of each column of categories those that are counted, with "missing" and "other"."""
    told = frequent(data, samples, np.ones(len(samples.labels), np.bool_))
    union = dict[str, list[str]]()
    if told:
        total = yield np.concatenate([table_of(texts, shown.seed) for texts in told.values()])
        parts = total.reshape(-1, SIZE)
        union = {name: texts_of(part, name, shown.seed) for name, part in zip(told, parts, strict=True)}
    listed = {tidy(name): one for name, one in data.categorical.items()}
    names = [name for name, kind in samples.schema if is_categorical(kind)]
    found = {name: union[name] if name in union else list(listed[name]) for name in names}
    more = (MISSING_CATEGORY, OTHER_CATEGORY)
    return {name: [*one, *(extra for extra in more if extra not in one)] for name, one in found.items()}


def _counts(samples: Samples, name: str, listed: Sequence[str]) -> Floats:
    raw = raw_columns(samples)
    assert isinstance(raw, dict), "a table with categories has columns by name"
    codes = list(map(category_place(listed), raw[name].tolist()))
    return np.bincount(codes, minlength=len(listed)).astype(np.float64)


def _second_sums(numbers: NDArray[Any], mean: Floats) -> Floats:
    """Of each column, over values that are there: differences from the mean, and their squares; (2 d,)."""
    apart = [column[~np.isnan(column)] - one for column, one in zip(numbers.T, mean, strict=True)]
    return np.array([*(one.sum() for one in apart), *(one @ one for one in apart)], np.float64)


def _edges(shown: Shown, name: str, least: float, mean: float, deviation: float) -> Floats:
    """Of the bins, (bins + 1,)."""
    around = max(mean - WIDTH * deviation, least), mean + WIDTH * deviation
    low, high = shown.ranges.get(name, shown.ranges.get("*", around))
    if not low < high:
        low, high = mean - 0.5, mean + 0.5
    return np.linspace(low, high, shown.bins + 1)


def _histogram(column: NDArray[Any], edges: Floats) -> Floats:
    """How many values are below the bins, in each, and above: (bins + 2,)."""
    values = column[~np.isnan(column)]
    counts, _ = np.histogram(values, edges)
    return np.array([(values < edges[0]).sum(), *counts, (values > edges[-1]).sum()], np.float64)


def _numeric(
    shown: Shown, samples: float, there: float, moments: tuple[float, float], counts: Floats, edges: Floats
) -> Json:
    if there < shown.least:
        count, missing = shown.counts([there, samples - there])
        nothing = dict.fromkeys(("mean", "deviation", "histogram", "quantiles"))
        return {"count": count, "missing": missing, **nothing}
    missing, below, *inside, above = shown.counts([samples - there, *counts.tolist()])
    return {
        "count": None if missing is None else int(there),
        "missing": missing,
        "mean": float(moments[0]),
        "deviation": float(moments[1]),
        "histogram": {"edges": edges.tolist(), "below": below, "counts": inside, "above": above},
        "quantiles": _quantiles(counts, [below, *inside, above], edges),
    }


def _quantiles(counts: Floats, seen: Sequence[int | None], edges: Floats) -> dict[str, float | None]:
    """Of what is shown: hidden ones of `counts` (bins + 2,) are taken as equal, else quantiles told them."""
    hidden = [place for place, one in enumerate(seen) if one is None]
    even = counts.copy()
    if hidden:
        even[hidden] = counts[hidden].mean()
    return {f"{one:g}": _quantile(one, even, edges) for one in QUANTILES}


def _quantile(part: float, counts: Floats, edges: Floats) -> float | None:
    """Within the bin that has it, as if values lay evenly there; None beyond the bins."""
    passed = np.cumsum(counts)
    wanted = part * passed[-1]
    place = int(np.searchsorted(passed, wanted)) - 1
    if not 0 <= place < len(edges) - 1:
        return None
    before = passed[place]
    inside = (wanted - before) / counts[place + 1]
    return float(edges[place] + inside * (edges[place + 1] - edges[place]))


def _of_categories(shown: Shown, listed: Sequence[str], totals: Floats) -> Json:
    counts = dict(zip(listed, shown.counts(totals.tolist()), strict=True))
    return {"kind": "categories", "counts": counts}


def _impossible() -> DataError:
    return DataError(
        "what all silos' columns add up to is not what records can have: a silo's numbers are wrong or a lie",
        rank=0,
    )
