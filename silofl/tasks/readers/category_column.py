"""A column of categories while it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.category_texts import (
    MISSING_CATEGORY,
    MISSING_CODE,
    OTHER_CATEGORY,
    UNKNOWN_CODE,
    category_key,
    category_place,
    category_text,
    is_missing,
)
from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.rows import places
from silofl.tasks.readers.source import CATEGORIES


class CategoryColumn(Column):
    """Cells in, keys of categories out: see `category_key`; NaN where there is none.

    `categories` are those that there may be; None where any text is one.
    """

    def __init__(self, name: str, categories: Sequence[str] | None) -> None:
        super().__init__(name)
        self._declared = frozenset(map(category_text, categories or ()))
        self._place = None if categories is None else category_place(categories)
        self._known: dict[Any, tuple[float, int]] = {}
        self._wrong: dict[int, list[int]] = {MISSING_CODE: [], UNKNOWN_CODE: []}

    def add(self, cells: Sequence[Any], rows: Sequence[int]) -> None:
        """Take text, numbers or truth values, or None where one is missing."""
        found = [self._known.get(cell) or self._learn(cell) for cell in cells]
        keys, codes = np.array(found, np.float64).reshape(-1, 2).T
        for code, wrong in self._wrong.items():
            wrong += [rows[place] for place in np.flatnonzero(codes == code).tolist()]
        self.empty = self.empty and bool(np.isnan(keys).all())
        self._blocks.append(keys)

    def add_numbers(self, values: NDArray[Any], rows: Sequence[int], *, truths: bool = False) -> None:
        """Take an array of numbers or truth values, NaN where one is missing."""
        cells = values.tolist()
        self.add([bool(cell) if truths and cell == cell else cell for cell in cells], rows)  # noqa: PLR0124

    @property
    def kind(self) -> str:
        """Categories."""
        return CATEGORIES

    def problems(self, word: str) -> list[str]:
        """See `Column`."""
        found, key = [], f"data.categorical.{self.name}"
        for code, what, category in (
            (MISSING_CODE, "missing value(s)", MISSING_CATEGORY),
            (UNKNOWN_CODE, f"value(s) that are none of {key}", OTHER_CATEGORY),
        ):
            rows = self._wrong[code]
            if rows:
                found.append(
                    f"{len(rows)} {what} ({places(word, rows)}): correct them, or add {category!r} to {key}, "
                    "which takes all such"
                )
        return found

    def _learn(self, cell: Any) -> tuple[float, int]:
        """A cell's key, and its place among the categories that there may be, or a code below 0."""
        text = category_text(cell)
        nothing = is_missing(text) and text not in self._declared
        key = math.nan if nothing else category_key(text)
        if not nothing:
            self.texts[key] = text
        self._known[cell] = key, 0 if self._place is None else self._place(text)
        return self._known[cell]
