"""What a page is made of: sections of figures and tables, as text that the template escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Drawing:
    """A figure: an SVG element of `silofl.report.page.figures`, with what is written above and below it."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table: columns from `numbers` on hold numbers, and `strong` cells, (row, column), stand out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 1
    caption: str = ""
    strong: frozenset[tuple[int, int]] = frozenset()
    folded: bool = False


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    title: str
    said: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it."""
        return not (self.said or self.drawings or self.tables)


@dataclass(frozen=True)
class Chapter:
    """One run, or what several are compared by.

    Attributes:
        title: of it.
        status: a line below the title.
        remarks: what is not there.
        facts: names and values that are seen first.
        parts: its sections.
    """

    title: str
    status: str = ""
    remarks: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    parts: Sequence[Part] = field(default_factory=list)
