"""CSV: a header line with the names of the columns, then a sample a line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, TextIO

from silofl.errors import DataError
from silofl.tasks.readers.cells import Column
from silofl.tasks.readers.columns import from_columns, tidy, values_for_names
from silofl.tasks.readers.dialect import Header, open_text, read_header, rows_of, undecodable_line
from silofl.tasks.readers.rows import places
from silofl.tasks.readers.source import Options, Samples, Source, reading, refuse_huge

_BLOCK = 8192
"""Lines that are text in memory at a time."""


def read_csv(source: Source, options: Options) -> Samples:
    """Read text whose columns are divided by comma, semicolon, tab or bar, as its header shows.

    UTF-8, or UTF-16 and UTF-32 with a byte order mark; packed by gzip, bzip2 or xz where the file's name ends
    so. By Python's own csv module, which is strict about quotes and knows lines' numbers: other readers take
    `"4"5` for 45, and an open quote for one cell up to the end of the file.

    Raises:
        DataError: the file cannot be read at all.
    """
    with reading(source, "CSV", told=False), open_text(source.path) as file:
        try:
            table = _Table(source, options, read_header(file, options.task.label_column))
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
        self._rows: list[int] = []
        self._blank = 0
        self._repeated: list[int] = []
        self._uneven: list[int] = []
        self._broken: list[str] = []
        self._last = header.lines

    def read(self, file: TextIO) -> None:
        """Take all rows that can be taken; remember why others cannot."""
        rows = self._split(file)
        first = next(rows, None)
        if first is None:
            rows = iter(())
        else:
            self._fit_names(first[1])
            rows = chain([first], rows)
        self._columns = [Column(name, self._options.decimal) for name in self._names]
        checked = self._checked(rows)
        while block := list(islice(checked, _BLOCK)):
            numbers, cells = zip(*block, strict=True)
            refuse_huge(self._source, (len(self._rows) + len(block)) * len(self._names), "the table")
            self._rows += numbers
            self._take(list(zip(*cells, strict=True)), numbers)

    def samples(self) -> Samples:
        """What was read."""
        place = self._label_place()
        features = [column for k, column in enumerate(self._columns) if k != place]
        labels = None if place is None else self._labels
        found = from_columns(features, labels, self._options, "line", self._rows)
        notices = (
            [f"{self._header.comments} comment line(s) are passed over"] if self._header.comments else []
        )
        notices += [f"{self._blank} line(s) without a value are passed over"] if self._blank else []
        headless = values_for_names(self._header.names)
        if headless:  # alone: other problems are told by names of columns, which are values here
            return found._replace(problems=(headless,))
        if not self._header.names:  # an empty file, which the caller refuses
            torn = ["the quotes of the header are not closed, or stand inside a name: correct the line"]
            return found._replace(problems=tuple(torn if self._header.torn else self._broken))
        return found._replace(
            problems=(*self._broken, *self._line_problems(), *found.problems),
            notices=(*notices, *found.notices),
        )

    def _label_place(self) -> int | None:
        label = self._options.task.label_column
        return self._names.index(label) if label in self._names else None

    def _split(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """Every row with its line's number, up to what cannot be divided into cells."""
        lines = rows_of(file, self._header.delimiter)
        while True:
            begin = self._header.lines + lines.line_num + 1
            try:
                row = next(lines)
            except StopIteration:
                return
            except csv.Error:
                self._broken.append(
                    f"the quotes on line {begin} are not closed, or stand inside a value: correct the line; "
                    "nothing after it was read"
                )
                return
            yield begin, row

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
        place = self._label_place()
        for k, (column, mine) in enumerate(zip(self._columns, cells, strict=True)):
            if k == place:
                self._labels += mine
            else:
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
