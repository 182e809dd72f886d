"""One column of a table while it is read: its cells become numbers, and rows without one are noted."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.rows import places
from silofl.tasks.readers.source import NUMBER, TRUTH

MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "?"))
_LARGEST = float(np.finfo(np.float32).max)
_EXACT = 2.0**53
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(inity)?")
_TRUTHS = {"true": 1.0, "false": 0.0}
_GROUPED = re.compile(r"[+-]?\d[\d.,'’ \u00a0\u202f]*(e[+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([t ].*)?", re.ASCII)

_SAID = {
    "missing": "{n} missing value(s) ({rows}): fill them in, say in data.impute what stands for them, or "
    "remove those rows, or the column by data.drop",
    "infinite": "{n} value(s) that are infinite or too large for float32 ({rows}): correct them",
    "whole": "{n} whole number(s) beyond 2^53, whose last digits would be lost ({rows}): if they are an "
    "identifier, name the column in data.id or data.drop",
    "grouped": "{n} value(s) with other signs between digits than data.decimal ({rows}): set data.decimal to "
    "the sign before decimals, '.' or ',', and write none between thousands",
    "date": "{n} date(s) ({rows}): write them as numbers, such as days, or name the column in data.drop",
    "text": "{n} value(s) that are not numeric ({rows}): if they are categories, name the column in "
    "data.categorical, else in data.drop",
}
"""What is wrong with cells, in the order in which it is told."""


def is_value(name: str) -> bool:
    """Whether a column's name may be a sample's value: a number, a date, or what cannot be printed."""
    text = name.lower()
    return not name.isprintable() or any(one.fullmatch(text) for one in (_NUMBER, _GROUPED, _DATE))


class Column:
    """Cells in, numbers out.

    Attributes:
        name: of the column; empty where it has none.
        empty: whether no cell has held anything yet.
        may_miss: whether values may be missing.
        texts: of a column of categories, what each of its values stands for.
    """

    def __init__(self, name: str, decimal: Literal[".", ","] = ".", *, may_miss: bool = False) -> None:
        self.name, self.empty, self.may_miss = name, True, may_miss
        self.texts: dict[float, str] = {}
        self._decimal = decimal
        self._blocks: list[NDArray[np.float64]] = []
        self._rows: defaultdict[str, list[int]] = defaultdict(list)
        self._truths = self._numbers = 0

    def add(self, cells: Sequence[Any], rows: Sequence[int]) -> None:
        """Take text, or None where a value is missing; `rows` is how messages call each."""
        values = self._all_numbers(cells)
        if values is None:
            values = np.array([self._one(cell, row) for cell, row in zip(cells, rows, strict=True)])
        else:
            self._numbers += len(values)
            for place in np.flatnonzero(np.abs(values) >= _EXACT).tolist():
                self._check_whole(str(cells[place]).strip(), values[place], rows[place])
        self.empty = self.empty and not self._truths and not self._numbers and not self._others()
        self._keep(values, rows)

    def add_numbers(self, values: NDArray[Any], rows: Sequence[int], *, truths: bool = False) -> None:
        """Take an array of numbers or truth values, NaN where one is missing."""
        floats = values.astype(np.float64)
        if values.dtype.kind in "iu":
            beyond = np.flatnonzero(np.abs(floats) >= _EXACT).tolist()
            self._rows["whole"] += [rows[k] for k in beyond if int(values[k]) != int(floats[k])]
        missing = np.flatnonzero(np.isnan(floats)).tolist()
        self._rows["missing"] += [rows[place] for place in missing]
        held = len(floats) - len(missing)
        self.empty = self.empty and not held
        if truths:
            self._truths += held
        else:
            self._numbers += held
        self._keep(floats, rows)

    @property
    def kind(self) -> str:
        """Numbers or truth values."""
        return TRUTH if self._truths and not self._numbers else NUMBER

    @property
    def values(self) -> NDArray[np.float64]:
        """(n,) numbers, NaN where a cell holds none."""
        return np.concatenate(self._blocks) if self._blocks else np.empty(0)

    def problems(self, word: str) -> list[str]:
        """What is wrong, as parts of a sentence behind `column 'name' has`; `word` is what a row is called.

        Each is what the column has, a colon, and what to do.
        """
        found = [
            text.format(n=len(self._rows[kind]), rows=places(word, self._rows[kind]))
            for kind, text in _SAID.items()
            if self._rows[kind] and not (self.may_miss and kind == "missing")
        ]
        if self._truths and self._numbers:
            found.append(f"{self._truths} truth value(s) among numbers: write all of one kind")
        return found

    def _others(self) -> bool:
        return any(rows for kind, rows in self._rows.items() if kind != "missing")

    def _keep(self, values: NDArray[np.float64], rows: Sequence[int]) -> None:
        self._rows["infinite"] += [
            rows[place] for place in np.flatnonzero(np.abs(values) > _LARGEST).tolist()
        ]
        self._blocks.append(values)

    def _all_numbers(self, cells: Sequence[Any]) -> NDArray[np.float64] | None:
        """The usual case, quickly; None where a cell needs a closer look."""
        try:
            text = "".join(cells)
            if "_" in text or not text.isascii():  # which float() takes
                return None
            if self._decimal == ",":
                if "." in text:
                    return None
                cells = [cell.replace(",", ".") for cell in cells]
            values = np.fromiter(map(float, cells), dtype=np.float64, count=len(cells))
        except (ValueError, TypeError):
            return None
        return None if np.isnan(values).any() else values

    def _one(self, cell: Any, row: int) -> float:
        text = "" if cell is None else str(cell).strip().lower()
        if text in MISSING:
            self._rows["missing"].append(row)
            return math.nan
        if text in _TRUTHS:
            self._truths += 1
            return _TRUTHS[text]
        plain = text.replace(",", ".") if self._decimal == "," and "." not in text else text
        other_sign = self._decimal == "," and "." in text
        if not other_sign and (_NUMBER.fullmatch(plain) or _INFINITE.fullmatch(plain)):
            self._numbers += 1
            value = float(plain)
            self._check_whole(plain, value, row)
            return value
        kind = "date" if _DATE.fullmatch(text) else "grouped" if _GROUPED.fullmatch(text) else "text"
        self._rows[kind].append(row)
        return math.nan

    def _check_whole(self, text: str, value: float, row: int) -> None:
        if _EXACT <= abs(value) < math.inf and _WHOLE.fullmatch(text) and int(text) != int(value):
            self._rows["whole"].append(row)
