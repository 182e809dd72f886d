"""Parquet, by pyarrow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.columns import check_names, from_columns
from silofl.tasks.readers.source import Options, Samples, Source, optional, reading


def read_parquet(source: Source, options: Options) -> Samples:
    """Read a Parquet file: a sample a row, numbers or booleans as features.

    Raises:
        DataError: as `from_columns`; the file is damaged.
        MissingDependencyError: pyarrow is not installed.
    """
    parquet = optional("pyarrow.parquet", f"reading {source}")
    with reading(source, "Parquet"):
        table = parquet.ParquetFile(source.path, page_checksum_verification=True).read()
        check_names(table.column_names, options.label_column, source)
        columns = {name: _array(table.column(name)) for name in table.column_names}
    return from_columns(columns, options.label_column, source)


def _array(column: Any) -> NDArray[Any]:
    """Numbers as they are, float64 with NaN where some are missing; all else as Python objects."""
    values = np.asarray(column.to_numpy())
    if values.dtype.kind in "biuf":
        return values
    objects = np.empty(len(column), dtype=object)
    objects[:] = column.to_pylist()
    return objects
