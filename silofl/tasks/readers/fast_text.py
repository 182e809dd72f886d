"""Blocks of plain numbers by pyarrow, which is ten times as fast as Python's csv module and less strict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXACT = 2.0**53
_TRUTHS = {"true": True, "false": False}


class Layout(NamedTuple):
    """How the lines of a table are divided."""

    delimiter: str
    decimal: Literal[".", ","]
    width: int
    """How many cells a line has."""
    label: int | None
    """Which of them is the label; None where the target is numbers."""
    is_label: Callable[[str], bool] | None
    """Whether a label's text is a class."""
    owner: int | None = None
    """Which of them says whose the sample is, where that is asked."""
    passed_over: frozenset[int] = frozenset()
    """Which of them are not read."""
    texts: frozenset[int] = frozenset()
    """Which of them are texts."""


class Block(NamedTuple):
    """Cells of n lines."""

    columns: dict[int, NDArray[Any] | list[str]]
    """(n,) each, by place: float64, truth values, or texts; of the label and the owner nothing."""
    labels: list[str]
    """n texts, where they are asked for."""
    owners: list[str]
    """n texts, likewise."""
    rows: int
    """n."""


def read_block(text: str, first: Sequence[str], layout: Layout) -> Block | None:
    """The cells of whole lines, where all of them are as they are in most tables; None for any others.

    Those are finite numbers below 2^53, or truth values, and classes. All else needs a closer look: values
    that are missing, other quotes than around whole cells, blank lines of cells, a header that is repeated.

    Args:
        text: of the lines, with their ends.
        first: cells of the first of them.
        layout: how they are divided.
    """
    try:
        csv = import_module("pyarrow.csv")
        arrow = import_module("pyarrow")
    except ImportError:
        return None
    plain = _plain(text, layout)
    if plain is None:
        return None
    names = [str(place) for place in range(layout.width)]
    types = {
        name: arrow.bool_() if cell.strip().lower() in _TRUTHS else arrow.float64()
        for name, cell in zip(names, first, strict=True)
    }
    types |= dict.fromkeys(map(str, layout.texts | layout.passed_over), arrow.string())
    if layout.label is not None:
        types[str(layout.label)] = arrow.dictionary(arrow.int32(), arrow.string())
    if layout.owner is not None:
        types[str(layout.owner)] = arrow.string()
    content = plain.encode()
    try:
        table = csv.read_csv(
            arrow.BufferReader(content),
            read_options=csv.ReadOptions(column_names=names, use_threads=False, block_size=len(content) + 1),
            parse_options=csv.ParseOptions(
                delimiter=layout.delimiter, quote_char=False, double_quote=False, escape_char=False
            ),
            convert_options=csv.ConvertOptions(
                column_types=types,
                include_columns=[name for name in names if int(name) not in layout.passed_over],
                null_values=[],
                true_values=["true", "True", "TRUE"],
                false_values=["false", "False", "FALSE"],
                decimal_point=layout.decimal,
            ),
        )
    except (arrow.ArrowException, UnicodeError):
        return None
    others = {str(layout.label), str(layout.owner)}
    places = [place for place in range(layout.width) if place not in layout.passed_over]
    kept = {place: table.column(str(place)) for place in places if str(place) not in others}
    columns = {
        place: one.to_pylist() if place in layout.texts else one.to_numpy() for place, one in kept.items()
    }
    if not all(isinstance(column, list) or _ordinary(column) for column in columns.values()):
        return None
    labels = list[str]()
    if layout.label is not None and layout.is_label is not None:
        coded = table.column(str(layout.label)).combine_chunks()
        known = [one.strip() for one in coded.dictionary.to_pylist()]
        if not all(map(layout.is_label, known)):
            return None
        labels = np.array(known, dtype=object)[coded.indices.to_numpy()].tolist()
    owners = [] if layout.owner is None else table.column(str(layout.owner)).to_pylist()
    return Block(columns, labels, owners, table.num_rows)


def _plain(text: str, layout: Layout) -> str | None:
    """The lines without quotes around whole cells; None where a quote is anywhere else."""
    text = text.replace("\r\n", "\n")
    if "\r" in text or "\0" in text:
        return None
    if '"' in text:
        end = rf"[{re.escape(layout.delimiter)}\n]"
        cell = (
            rf'"(?<={end}")([^"\n{re.escape(layout.delimiter)}]*)"(?={end})'  # a letter first, which is quick
        )
        text = re.sub(cell, r"\1", f"\n{text}\n")
    return None if '"' in text else text


def _ordinary(column: NDArray[Any]) -> bool:
    return column.dtype == bool or bool((np.abs(column) < _EXACT).all())
