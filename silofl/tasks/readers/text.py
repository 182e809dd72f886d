"""CSV: a header line with the names of the columns, then a sample a line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from itertools import chain, islice
from typing import Any, TextIO

from silofl.errors import DataError
from silofl.tasks.readers.cells import Column, is_value
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.columns import from_columns, new_column, unlabelled
from silofl.tasks.readers.dialect import Header, open_text, read_header, rows_of, undecodable_line
from silofl.tasks.readers.fast_text import Layout, read_block
from silofl.tasks.readers.labels import class_of
from silofl.tasks.readers.rows import places, some
from silofl.tasks.readers.source import Options, Samples, Source, reading, refuse_huge

_BLOCK = 1 << 22
"""Characters that are read at a time, and then up to the line's end."""
_ROWS = 8192
"""Rows that are cells in memory at a time."""


def read_csv(source: Source, options: Options) -> Samples:
    """Read text whose columns are divided by comma, semicolon, tab or bar, as its header shows.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark; packed by gzip, bzip2 or xz where the file's name ends
    so. By Python's own csv module, which is strict about quotes and knows lines' numbers: other readers take
    `"4"5` for 45, and an open quote for one cell up to the end of the file. Blocks without anything unusual
    are read faster, see `read_block`.

    Raises:
        DataError: the file cannot be read at all.
    """
    with reading(source, "CSV", told=False), open_text(source.path) as file:
        try:
            table = _Table(source, options, read_header(file, options.roles.targets[0]))
            table.read(file)
        except UnicodeDecodeError:
            number = undecodable_line(source.path)
            where = f"line {number} of {source}" if number else f"the text of {source}"
            raise DataError(f"{where} is not in the file's encoding: save the file as CSV in UTF-8") from None
    return table.samples()


class _Table:
    """A table while it is read."""

    def __init__(self, source: Source, options: Options, header: Header) -> None:
        self._source, self._options, self._header = source, options, header
        self._names = list(header.names)
        self._columns: list[Column] = []
        self._labels: list[str] = []
        self._owners: list[str] = []
        self._rows: list[int] = []
        self._blank = 0
        self._repeated: list[int] = []
        self._uneven: list[int] = []
        self._broken: list[str] = []
        self._last = header.lines
        self._first: list[str] = []

    def read(self, file: TextIO) -> None:
        """Take all rows that can be taken; remember why others cannot."""
        lines = self._header.lines
        while text := file.read(_BLOCK) + file.readline():
            if not self._columns:
                self._begin(text)
            if self._take_fast(text, lines):
                lines += text.count("\n")
            elif '"' in text:  # a cell may go on behind the block
                self._take_slowly(chain(StringIO(text, newline=""), file), lines)
                return
            else:
                lines = self._take_slowly(StringIO(text, newline=""), lines)
        if not self._columns:
            self._begin("")

    def _begin(self, text: str) -> None:
        """Fit the names to the first row; make columns."""
        try:
            rows = rows_of(StringIO(text, newline=""), self._header.delimiter)
            self._first = next((row for row in rows if row), [])
        except csv.Error:  # which is told when all is read
            pass
        self._fit_names(self._first)
        self._columns = [new_column(name, self._options) for name in self._names]

    def _take_fast(self, text: str, lines: int) -> bool:
        """Take a block of whole lines behind so many, if all of it is in order; whether it is."""
        place = self._label_place()
        if self._lost() or len(self._first) != len(self._names) or self._broken:
            return False
        layout = Layout(
            self._header.delimiter,
            self._options.decimal,
            len(self._names),
            place,
            None if place is None else self._is_label(self._names[place]),
            self._owner_place(),
            self._passed_over(),
            frozenset(k for k, name in enumerate(self._names) if name in self._options.roles.categorical),
        )
        block = read_block(text, self._first, layout)
        if block is None:
            return False
        rows = range(lines + 1, lines + 1 + block.rows)  # of lines in order, whose numbers nothing tells
        refuse_huge(self._source, (len(self._rows) + len(rows)) * len(self._names), "the table")
        self._rows += rows
        self._labels += block.labels
        self._owners += block.owners
        for place, values in block.columns.items():
            if isinstance(values, list):
                self._columns[place].add(values, rows)
            else:
                self._columns[place].add_numbers(values, rows, truths=values.dtype == bool)
        return True

    def _take_slowly(self, lines: Iterable[str], before: int) -> int:
        """Take lines behind so many by the strict reader; how many lines have been read then."""
        checked = self._checked(self._split(lines, before))
        while block := list(islice(checked, _ROWS)):
            numbers, cells = zip(*block, strict=True)
            refuse_huge(self._source, (len(self._rows) + len(block)) * len(self._names), "the table")
            self._rows += numbers
            self._take(list(zip(*cells, strict=True)), numbers)
        return self._last

    def samples(self) -> Samples:
        """What was read."""
        place = self._label_place()
        labels = None if place is None else self._labels
        owners = None if self._owner_place() is None else self._owners
        found = from_columns(self._features(), labels, self._options, "line", self._rows, owners)
        lost = self._lost()
        if lost and self._header.names and not any(map(is_value, self._names)):
            found = found._replace(
                problems=(unlabelled(self._names, lost[0]),),
                own=(f"the first line has {some(self._names)}",),
            )
        notices = (
            [f"{self._header.comments} comment line(s) are passed over"] if self._header.comments else []
        )
        notices += [f"{self._blank} line(s) without a value are passed over"] if self._blank else []
        if not self._header.names:  # an empty file, which the caller refuses
            torn = ["the quotes of the header are not closed, or stand inside a name: correct the line"]
            return found._replace(problems=tuple(torn if self._header.torn else self._broken))
        return found._replace(
            problems=(*self._broken, *self._line_problems(), *found.problems),
            notices=(*notices, *found.notices),
        )

    def _is_label(self, name: str) -> Callable[[str], bool]:
        """Whether a cell of the label's column, which has that name, is a class."""
        is_class = class_of(self._options.task)
        return lambda label: label != name and is_class(label) >= 0

    def _lost(self) -> list[str]:
        """Columns of the target that are not there."""
        return [name for name in self._options.roles.targets if name not in self._names]

    def _label_place(self) -> int | None:
        label = self._options.label
        return self._names.index(label) if label in self._names else None

    def _owner_place(self) -> int | None:
        owner = self._options.owner
        return self._names.index(owner) if owner and owner in self._names else None

    def _features(self) -> list[Column]:
        others = (self._label_place(), self._owner_place())
        return [column for k, column in enumerate(self._columns) if k not in others]

    def _passed_over(self) -> frozenset[int]:
        """Places of columns that are no features, and neither label nor owner."""
        others, passes = (self._label_place(), self._owner_place()), self._options.roles.passes_over
        return frozenset(k for k, name in enumerate(self._names) if k not in others and passes(name))

    def _split(self, text: Iterable[str], before: int) -> Iterator[tuple[int, list[str]]]:
        """Every row with its line's number, up to what cannot be divided into cells."""
        lines = rows_of(text, self._header.delimiter)
        while True:
            self._last = before + lines.line_num
            try:
                row = next(lines)
            except StopIteration:
                return
            except csv.Error:
                limit = csv.field_size_limit()
                self._broken.append(
                    f"the quotes on line {self._last + 1} are not closed, or stand inside a value, or a "
                    f"value has more than {limit} letters: correct the line; nothing after it was read"
                )
                return
            yield self._last + 1, row

    def _fit_names(self, first: list[str]) -> None:
        """Where a delimiter ends all rows but not the header, or the header alone, make both as wide."""
        if len(first) == len(self._names) + 1 and not first[-1].strip():
            self._names.append("")
        elif len(first) == len(self._names) - 1 and not self._names[-1]:
            self._names.pop()

    def _checked(self, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
        """Rows as wide as the header; blank ones and a repeated header are passed over and counted."""
        for number, row in rows:
            if not row or not (row[0].strip() or "".join(row).strip()):
                self._blank += bool(row) and len(row) > 1
            elif len(row) != len(self._names):
                self._uneven.append(number)
            elif row[0].strip() == self._names[0] and [tidy(cell) for cell in row] == self._names:
                self._repeated.append(number)
            else:
                yield number, row

    def _take(self, cells: list[Any], numbers: tuple[int, ...]) -> None:
        label, owner, passed_over = self._label_place(), self._owner_place(), self._passed_over()
        for k, (column, mine) in enumerate(zip(self._columns, cells, strict=True)):
            if k == label:
                self._labels += mine
            elif k == owner:
                self._owners += mine
            elif k not in passed_over:
                column.add(mine, numbers)

    def _line_problems(self) -> list[str]:
        found = []
        if self._uneven:
            found.append(
                f"{len(self._uneven)} line(s) do not have as many values as the header has names, which is "
                f"{len(self._names)} ({places('line', self._uneven)}): correct them"
            )
        if self._repeated:
            found.append(f"the header is repeated ({places('line', self._repeated)}): remove the repetition")
        return found
