"""From named columns to samples: what CSV and Parquet have in common."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.labels import encode
from silofl.tasks.readers.rows import places, some
from silofl.tasks.readers.source import Options, Samples

_INDEX = ("__index_level_", "Unnamed: ")
"""What pandas calls its row index when it writes it, and when it reads it as a column."""


def tidy(name: str) -> str:
    """A column's name as silos compare it: without blanks around it, accents in one code (NFC)."""
    return unicodedata.normalize("NFC", name.replace("\ufeff", "").strip())


def _is_number(name: str) -> bool:
    try:
        return bool(float(name.replace(",", ".")) or True)
    except ValueError:
        return False


def values_for_names(names: Sequence[str]) -> str:
    """Why a table's first line is no header but its first sample; empty where it may be one.

    Numbers are names where they count the columns, from 0 or from 1, as other programs write them.
    """
    numbers = [name for name in names if _is_number(name)]
    if not numbers or any(numbers == [str(k + first) for k in range(len(numbers))] for first in (0, 1)):
        return ""
    return (
        f"its first line has numbers where {len(numbers)} of {len(names)} columns should have names: put a "
        "line with the names of all columns before the first sample"
    )


def name_problems(names: Sequence[str], label_column: str) -> list[str]:
    """What is wrong with the names of columns that hold something."""
    found = []
    nameless = [place for place, name in enumerate(names, start=1) if not name or name.startswith(_INDEX)]
    if nameless:
        verb = "has" if len(nameless) == 1 else "have"
        found.append(
            f"{places('column', nameless)} {verb} no name or a row index's: name every column, and write the "
            "file without a row index"
        )
    found += [
        f"there are {count} columns {name!r}: rename or remove all but one"
        for name, count in Counter(names).items()
        if count > 1 and name
    ]
    if label_column not in names:
        found.append(
            f"there is no label column {label_column!r}: set task.label_column to one of {some(names)}"
        )
    elif len(names) == 1:
        found.append(f"there is no column but the label {label_column!r}: add columns of features")
    return found


def from_columns(
    columns: Sequence[Column],
    labels: Sequence[Any] | None,
    options: Options,
    word: str,
    rows: Sequence[int],
) -> Samples:
    """Samples with features sorted by column name, so that the order of columns in a file does not matter.

    Args:
        columns: of features, of which those that have neither a name nor a value are passed over.
        labels: as they stand in the file; None where it has no such column.
        options: what the file is read with.
        word: what a row is called.
        rows: how each row is called.
    """
    label = options.task.label_column
    kept = [column for column in columns if column.name or not column.empty]
    passed_over = len(columns) - len(kept)
    notices = (
        [f"{passed_over} column(s) without a name and without a value are passed over"] if passed_over else []
    )
    for name, value in options.constants.items():
        if name == label:
            labels = [value] * len(rows)
        else:
            kept.append(Column(name, options.decimal))
            kept[-1].add([value] * len(rows), rows)
    names = [column.name for column in kept] + ([] if labels is None else [label])
    problems = name_problems(names, label)
    problems += [problem for column in kept for problem in column.problems(word)]
    classes = np.full(len(rows), -1, dtype=np.int64)
    if labels is not None:
        classes, wrong = encode(labels, options.task, f"label column {label!r}", word, rows)
        problems += wrong
    ordered = sorted(kept, key=lambda column: column.name)
    features = np.column_stack([column.values for column in ordered]) if ordered else np.empty((len(rows), 0))
    schema = tuple((column.name, column.kind) for column in ordered)
    return Samples(features, classes, schema, tuple(problems), tuple(notices))
