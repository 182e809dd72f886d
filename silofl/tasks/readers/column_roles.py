"""What becomes of each column of a table, by its name: as [data] says it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self

from silofl.config import DataConfig

if TYPE_CHECKING:
    from silofl.tasks.readers.target_column import CellRule

OTHERS = "*"
"""In keys of [data] by column: all columns that are not named."""


def tidy(name: str) -> str:
    """A column's name as silos compare it: without blanks around it, accents and micro in one code (NFC)."""
    return unicodedata.normalize("NFC", name.replace("\ufeff", "").replace("\u00b5", "\u03bc").strip())


class ColumnRoles(NamedTuple):
    """Names are tidy."""

    target: str = "label"
    """The label's, where the target is a class; else empty."""
    identifier: str = ""
    """That which numbers records; empty where none does."""
    dropped: frozenset[str] = frozenset()
    """Those that are passed over, if they are there."""
    taken: frozenset[str] = frozenset()
    """Those that are features; empty where all others are."""
    categorical: Mapping[str, Sequence[str] | None] = MappingProxyType({})
    """Categories of each column that has some; None where silos find them together."""
    may_miss: frozenset[str] = frozenset()
    """Those of numbers in which values may be missing; `OTHERS` for all."""
    measured: Mapping[str, Sequence[CellRule]] = MappingProxyType({})
    """Those of a target of numbers, and what each may not be."""

    @classmethod
    def of(cls, data: DataConfig, measured: Mapping[str, Sequence[CellRule]] = MappingProxyType({})) -> Self:
        """Those of [data], with the columns of a target that is no class."""
        return cls(
            tidy(data.target) if isinstance(data.target, str) and not measured else "",
            tidy(data.id),
            frozenset(map(tidy, data.drop)),
            frozenset(map(tidy, data.columns)),
            {
                tidy(name): None if categories == "union" else tuple(categories)
                for name, categories in data.categorical.items()
            },
            frozenset(map(tidy, data.impute)),
            measured,
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """All columns of the target."""
        return tuple(self.measured) or (self.target,)

    def passes_over(self, name: str) -> bool:
        """Whether a column that is neither a target's nor the owner is no feature."""
        if name in self.measured:
            return False
        unasked = bool(self.taken) and name not in self.taken
        return bool(name) and (name == self.identifier or name in self.dropped or unasked)

    def may_be_missing(self, name: str) -> bool:
        """Whether values of a column of numbers may be missing."""
        return bool(self.may_miss & {name, OTHERS})
