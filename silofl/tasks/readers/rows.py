"""Sentences about rows: which they are, never what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

_SHOWN = 5


class RowOf(Sequence[int]):
    """The row, from 1, of each of `size` values that stand in rows of `width`."""

    def __init__(self, width: int, size: int) -> None:
        self._width, self._size = width, size

    def __len__(self) -> int:
        """How many values there are."""
        return self._size

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[int]: ...
    def __getitem__(self, place: int | slice) -> int | Sequence[int]:
        """The row of one value, or of several."""
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(self._size))]
        return int(place) // self._width + 1


def places(word: str, numbers: Sequence[int]) -> str:
    """`line 7`, or `lines 3, 7 to 9 and 20 more` of ascending numbers; a run of neighbours counts as one."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number <= runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = runs[:_SHOWN]
    more = sum(number > shown[-1][1] for number in numbers)
    texts = [str(first) if first == last else f"{first} to {last}" for first, last in shown]
    return f"{word}{'s' * (len(numbers) > 1)} {listed(texts, more)}"


def listed(texts: Iterable[str], more: int = 0) -> str:
    """`a`, `a and b`, `a, b and 7 more`."""
    *first, last = [*texts, *([f"{more} more"] if more else [])] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def some(names: Sequence[str], limit: int = 12) -> str:
    """The first names in quotes, and how many more there are."""
    return listed([repr(name) for name in names[:limit]], max(0, len(names) - limit))
