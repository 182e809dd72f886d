"""From named columns to numbers: what CSV and Parquet have in common."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.source import Samples, Source

_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_LARGEST = float(np.finfo(np.float32).max)
_INDEX = "__index_level_"


def check_names(names: Sequence[str], label_column: str, source: Source) -> None:
    """Raises DataError for nameless or repeated columns, no label column, no other column."""
    for place, name in enumerate(names, start=1):
        if not name or name.startswith(_INDEX):
            raise DataError(
                f"column {place} of {source} has no name: name it, or write the file without a row index"
            )
    name, count = Counter(names).most_common(1)[0] if names else ("", 0)
    if count > 1:
        raise DataError(f"{source} has {count} columns {name!r}: rename or remove all but one")
    if label_column not in names:
        raise DataError(
            f"{source} has no label column {label_column!r}: set task.label_column to one of {_some(names)}"
        )
    if len(names) == 1:
        raise DataError(f"{source} has no column but the label {label_column!r}: add columns of features")


def from_columns(columns: Mapping[str, NDArray[Any]], label_column: str, source: Source) -> Samples:
    """Features sorted by column name, so that the order of columns in a file does not matter.

    Args:
        columns: arrays (n,) of numbers, booleans or strings; a missing value is NaN, None or a usual word
            for it such as the empty string or NA.
        label_column: the labels, left as they are.
        source: named in errors.

    Raises:
        DataError: a column is missing, is not numeric, or has missing or infinite values.
    """
    check_names(list(columns), label_column, source)
    labels = columns[label_column]
    lost = sum(_missing(label, ("", "nan")) for label in labels.tolist())
    if lost:
        raise DataError(
            f"label column {label_column!r} of {source} has {lost} missing value(s): "
            "label those rows or remove them"
        )
    names = sorted(set(columns) - {label_column})
    features = np.empty((len(labels), len(names)))
    for place, name in enumerate(names):
        features[:, place] = to_numbers(columns[name], f"column {name!r} of {source}")
        check_numbers(features[:, place], f"column {name!r} of {source}")
    return Samples(features, labels)


def check_numbers(values: NDArray[Any], what: str) -> None:
    """Raises DataError where float values are missing (NaN), infinite or beyond float32."""
    lost = int(np.count_nonzero(np.isnan(values)))
    if lost:
        raise DataError(
            f"{what} has {lost} missing value(s): fill them in, or remove those rows or the column"
        )
    large = int(np.count_nonzero(np.abs(values) > _LARGEST))
    if large:
        raise DataError(
            f"{what} has {large} value(s) that are infinite or too large for float32: correct them"
        )


def to_numbers(values: Sequence[Any] | NDArray[Any], what: str) -> NDArray[np.float64]:
    """Float64 (n,) of numbers, or of text that spells numbers, with NaN for missing values.

    Raises:
        DataError: a value is neither; `what` is the column in the message.
    """
    try:
        if isinstance(values, np.ndarray):
            return values.astype(np.float64, copy=False)
        return np.fromiter(map(float, values), dtype=np.float64, count=len(values))
    except (ValueError, TypeError):
        return np.array([_number(value, what) for value in values], dtype=np.float64)


def _number(value: Any, what: str) -> float:
    if _missing(value, _MISSING):
        return math.nan
    try:
        return float(value)
    except (ValueError, TypeError):
        raise DataError(
            f"{what} is not numeric, it holds {str(value)!r}: encode it as numbers or remove it"
        ) from None


def _missing(value: Any, words: Sequence[str]) -> bool:
    return value is None or str(value).strip().lower() in words


def _some(names: Sequence[str], limit: int = 12) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
