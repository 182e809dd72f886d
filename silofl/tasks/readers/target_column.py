"""Columns of a target that is no class: numbers that have to keep to a head's rules, by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.rows import places

_REMEDY = ": correct them, or remove those rows"


class CellRule(NamedTuple):
    """What a target's numbers may not be."""

    what: str
    """Such values, in a sentence behind how many there are: `negative times`."""
    wrong: Callable[[NDArray[np.float64]], NDArray[np.bool_]]
    """Which of (n,) numbers are such, (n,)."""


class TargetColumn(Column):
    """Cells in, numbers out; none may be missing."""

    def __init__(self, name: str, decimal: Literal[".", ","], rules: Sequence[CellRule]) -> None:
        super().__init__(name, decimal)
        self._rules = rules
        self._broken: defaultdict[str, list[int]] = defaultdict(list)

    def problems(self, word: str) -> list[str]:
        """See `Column`; what helps a feature, such as data.impute, is no remedy here."""
        found = [text.partition(": ")[0] for text in super().problems(word)]
        broken = [f"{len(rows)} {what} ({places(word, rows)})" for what, rows in self._broken.items() if rows]
        return [text + _REMEDY for text in (*found, *broken)]

    def _keep(self, values: NDArray[np.float64], rows: Sequence[int]) -> None:
        for rule in self._rules:
            wrong = np.flatnonzero(rule.wrong(values)).tolist()
            self._broken[rule.what] += [rows[place] for place in wrong]
        super()._keep(values, rows)


def measured(
    arrays: Sequence[tuple[str, NDArray[Any]]], rules: Sequence[Sequence[CellRule]]
) -> tuple[NDArray[np.float64], list[str]]:
    """Target numbers (n, k) of arrays (n,) each by name, and what is wrong, as `Samples.problems`."""
    columns, problems = [], list[str]()
    for (name, values), ones in zip(arrays, rules, strict=True):
        column = TargetColumn(name, ".", ones)
        rows = range(1, len(values) + 1)
        if values.dtype.kind in "biuf":
            column.add_numbers(values, rows, truths=values.dtype.kind == "b")
        else:
            column.add([str(one) for one in values.tolist()], rows)
        columns.append(column)
        problems += [f"array {name!r} has {problem}" for problem in column.problems("row")]
    return np.column_stack([one.values for one in columns]), problems
