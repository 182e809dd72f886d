"""Parquet, by pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np

from silofl.tasks.readers.category_column import CategoryColumn
from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.columns import from_columns, new_column
from silofl.tasks.readers.source import (
    Options,
    Samples,
    Source,
    optional,
    reading,
    refuse_huge,
    with_units,
)


def read_parquet(source: Source, options: Options) -> Samples:
    """Read a Parquet file: a sample a row, numbers or booleans as features.

    Raises:
        DataError: the file is damaged.
        MissingDependencyError: pyarrow is not installed.
    """
    parquet = optional("pyarrow.parquet", f"reading {source}")
    with reading(source, "Parquet"):
        file = parquet.ParquetFile(source.path, page_checksum_verification=True)
        refuse_huge(source, file.metadata.num_rows * max(file.metadata.num_columns, 1), "the table")
        table = file.read()
    with reading(source, "Parquet", told=False):
        return _samples(table, options)


def _samples(table: Any, options: Options) -> Samples:
    rows = range(1, table.num_rows + 1)
    columns, labels, owners, wrong = [], None, None, list[str]()
    for name, column in zip(map(tidy, table.column_names), map(_plain, table.columns), strict=True):
        if options.label and name == options.label and labels is None:
            labels = column.to_pylist()
        elif options.owner and name == options.owner and owners is None:
            nested = _nested(name, column)
            owners, wrong = ["-"] * len(rows) if nested else column.to_pylist(), wrong + nested
        else:
            columns.append(new_column(name, options))
            if options.roles.passes_over(name):
                continue
            wrong += _read(columns[-1], column, rows)
    found = from_columns(columns, labels, options, "row", rows, owners)
    found = found._replace(problems=(*found.problems, *wrong))
    units = _units(table)
    return with_units(found, {name: unit for name, unit in units.items() if name in dict(found.schema)})


def _nested(name: str, column: Any) -> list[str]:
    """What is wrong with the type of a column of owners."""
    types = optional("pyarrow.types", "reading Parquet")
    if not types.is_nested(column.type):
        return []
    return [f"owner column {name!r} is of type {column.type}, which is no person's: write numbers or text"]


def _units(table: Any) -> dict[str, str]:
    """Of columns by name, where the file's own schema has them."""
    told = {field.name: dict(field.metadata or {}) for field in table.schema}
    units = {name: one.get(b"unit", one.get(b"units", b"")) for name, one in told.items()}
    return {tidy(name): unit.decode(errors="replace") for name, unit in units.items() if unit}


def _plain(column: Any) -> Any:
    """Categories as what they stand for; texts, which some engines write as bytes, as texts."""
    types = optional("pyarrow.types", "reading Parquet")
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_binary(column.type) or types.is_string_view(column.type):
        column = column.cast("string")
    return column


def _read(column: Column, values: Any, rows: range) -> list[str]:
    """Fill the column; a type that is no number's is a problem."""
    types = optional("pyarrow.types", "reading Parquet")
    kind = values.type
    if isinstance(column, CategoryColumn) and (types.is_integer(kind) or types.is_boolean(kind)):
        column.add(values.to_pylist(), rows)  # which has None and no NaN
        return []
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        column.add(values.to_pylist(), rows)
        return []
    known = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    if any(is_one(kind) for is_one in known):
        column.add_numbers(_numbers(values, types), rows, truths=types.is_boolean(kind))
        return []
    column.add_numbers(np.zeros(len(rows)), rows)
    return [
        f"column {column.name!r} is of type {kind}, which is not numeric: encode it as numbers, or name "
        "it in data.drop"
    ]


def _numbers(values: Any, types: Any) -> Any:
    """An array of integers where none is missing, else float64 with NaN."""
    if types.is_decimal(values.type):
        values = values.cast("float64")
    array = np.asarray(values.to_numpy())
    return array.astype(np.float64) if array.dtype == object else array
