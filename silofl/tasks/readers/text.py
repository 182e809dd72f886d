"""CSV: a header line with the names of the columns, then a sample a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.columns import check_names, from_columns, to_numbers
from silofl.tasks.readers.source import Options, Samples, Source, reading

if TYPE_CHECKING:
    from _csv import Reader

_DELIMITERS = ",;\t|"
_BLOCK = 8192
"""Lines that are text in memory at a time."""


def read_csv(source: Source, options: Options) -> Samples:
    """Read UTF-8 text whose columns are divided by comma, semicolon, tab or bar, as its header shows.

    Raises:
        DataError: as `from_columns`; a line with more or fewer values than the header; not text.
    """
    with reading(source, "CSV"), source.path.open(encoding="utf-8-sig", newline="") as file:
        lines = _lines(file)
        names = [name.strip() for name in next(lines, [])]
        if not names:
            raise DataError(f"silo {source.silo} has no samples: {source.path} is empty")
        check_names(names, options.label_column, source)
        blocks: list[list[NDArray[Any]]] = [[] for _ in names]
        while rows := list(islice(_checked(lines, len(names), source), _BLOCK)):
            for name, block, cells in zip(names, blocks, zip(*rows, strict=True), strict=True):
                is_label = name == options.label_column
                block.append(
                    np.array(cells) if is_label else to_numbers(cells, f"column {name!r} of {source}")
                )
    columns = {
        name: np.concatenate(block or [np.empty(0)]) for name, block in zip(names, blocks, strict=True)
    }
    return from_columns(columns, options.label_column, source)


def _lines(file: TextIO) -> Reader:
    header = file.readline()
    file.seek(0)
    return csv.reader(file, delimiter=max(_DELIMITERS, key=header.count), strict=True)


def _checked(lines: Reader, width: int, source: Source) -> Iterator[list[str]]:
    """Rows of `width` values; blank lines are passed over."""
    for row in lines:
        if row and len(row) != width:
            raise DataError(
                f"line {lines.line_num} of {source} has {len(row)} value(s) and the header names {width}: "
                "correct the line"
            )
        if row:
            yield row
