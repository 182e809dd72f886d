"""Columns shifted and scaled by constants that no record of this silo alone decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.column_kinds import Schema
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.rows import some

Features = NDArray[np.floating[Any]]
_LARGEST = float(np.finfo(np.float32).max)
MOST_VALUES = 2.0**48
"""More than any federation has in a column."""


@dataclass(frozen=True)
class Scaling:
    """For each column what is subtracted, and by what is divided then; the same at every silo.

    Attributes:
        columns: their names, d; of images there is one.
        center: (d,), finite.
        scale: (d,), finite and above 0.
    """

    columns: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    def of(self, features: Features, source: str) -> NDArray[np.float64]:
        """Features (n, d), or images (n, ...), scaled; DataError, naming `source`, beyond float32."""
        if features.ndim == 2 and features.shape[1] != len(self.columns):
            raise DataError(
                f"{source} has {features.shape[1]} column(s) of features, and this run's are scaled by "
                f"statistics of {len(self.columns)}: restore it"
            )
        with np.errstate(over="ignore"):
            scaled: NDArray[np.float64] = (features - np.array(self.center)) / np.array(self.scale)
        large = np.abs(scaled) > _LARGEST
        if large.any():
            names = np.array(self.columns)[large.any(axis=0) if scaled.ndim == 2 else [0]]
            raise DataError(
                f"{source} cannot be trained on: values of {some(names.tolist())} are too large for float32 "
                "once scaled: correct data.center and data.scale, or the values"
            )
        return scaled

    def to_json(self) -> dict[str, Any]:
        """As `of_json` reads it: lists of names and of numbers, none of which loses a bit."""
        return {"columns": list(self.columns), "center": list(self.center), "scale": list(self.scale)}

    @classmethod
    def of_json(cls, told: Any) -> Scaling:
        """From `to_json`. ValueError, TypeError or KeyError for what is none."""
        columns = tuple(str(name) for name in told["columns"])
        center, scale = (tuple(float(value) for value in told[key]) for key in ("center", "scale"))
        if not len(columns) == len(center) == len(scale) or not np.isfinite([*center, *scale]).all():
            raise ValueError("not as many finite numbers as columns")
        if min(scale, default=1.0) <= 0:
            raise ValueError("a scale that is not above 0")
        return cls(columns, center, scale)


def public_scaling(data: DataConfig, schema: Schema) -> Scaling | None:
    """That of `data.center` and `data.scale`; None where neither names a column."""
    if not (data.center or data.scale):
        return None
    center, scale = _tidied(data.center), _tidied(data.scale)
    names = tuple(name for name, _ in schema)
    return Scaling(
        names, tuple(center.get(name, 0.0) for name in names), tuple(scale.get(name, 1.0) for name in names)
    )


def first_sums(features: Features) -> NDArray[np.float64]:
    """How many rows there are, how many values each column has, and each column's sum: (1 + 2 d,).

    A missing value is NaN. Of images all values are one column.
    """
    counts, sums = list[int](), list[float]()
    for column in _columns(features):
        there = ~np.isnan(column)
        counts.append(int(np.count_nonzero(there)))
        sums.append(float(np.sum(column if there.all() else column[there])))
    return np.array([features.size / max(1, len(sums)), *counts, *sums])


def second_sums(features: Features, mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column's sum of differences from `mean` (d,), then each sum of their squares: (2 d,)."""
    sums, squares = [], []
    for column, center in zip(_columns(features), mean, strict=True):
        apart = column - center
        sums.append(np.sum(apart))
        squares.append(np.sum(apart * apart))
    return np.array([*sums, *squares])


def mean_of(first: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean (d,) of the values that are there, by the `first_sums` of all silos; 0 of no values."""
    counts, sums = np.split(first[1:], 2)
    mean: NDArray[np.float64] = sums / np.maximum(counts, 1.0)
    return mean


def pooled_scaling(
    columns: Sequence[str],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
) -> Scaling:
    """Mean and standard deviation of all silos' records together, by what they add up to.

    By two passes, of which the second corrects the first (Chan, Golub and LeVeque 1983, section 2): errors
    are those of single roundings, however far the mean is from zero. A column that does not vary, as far as
    float64 tells, is shifted only. Where the mean stands for missing values, `second` is of them, too.

    Args:
        columns: their names.
        first: the sum over silos of `first_sums`.
        second: that of `second_sums` around `mean_of(first)`.

    Raises:
        DataError: sums that records cannot have, such as a silo that lies about its own makes; none is named.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all() and 1 <= first[0] < MOST_VALUES):
        raise no_sums_of_records()
    count, mean = max(first[0], 1.0), mean_of(first)
    apart, squares = np.split(second, 2)
    center = mean + apart / count
    deviation = np.sqrt(np.maximum(squares - apart**2 / count, 0.0) / count)
    if not (squares >= 0).all() or not np.isfinite([center, deviation]).all():
        raise no_sums_of_records()
    varies = deviation > np.finfo(np.float64).eps * np.abs(center)
    return Scaling(tuple(columns), tuple(center.tolist()), tuple(np.where(varies, deviation, 1.0).tolist()))


def no_sums_of_records() -> DataError:
    """What is wrong with sums that cannot be those of silos' records."""
    return DataError(
        'data.standardize = "federated": what all silos\' columns add up to is not what records can have: a '
        "silo's numbers are wrong or a lie; nothing was scaled",
        rank=0,
    )


def _columns(features: Features) -> Iterator[NDArray[np.float64]]:
    """Each column (n,), contiguous: NumPy adds such up in pairs."""
    flat = features if features.ndim == 2 else features.reshape(features.size, 1)
    return (np.ascontiguousarray(column, dtype=np.float64) for column in flat.T)


def _tidied(table: Mapping[str, float]) -> dict[str, float]:
    return {tidy(name): value for name, value in table.items()}
