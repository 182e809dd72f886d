"""How a text file divides its columns: encoding, comments before the header, delimiter, names."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

from silofl.config import marked_encoding
from silofl.tasks.readers.column_roles import tidy

_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""What opens a file whose name ends so."""
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Encodings in which plain letters have zero bytes."""
_HEAD = 1 << 16
"""Bytes at the beginning of a file that show its encoding."""
_DELIMITERS = ",;\t|"
_SEPARATOR = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)


class Header(NamedTuple):
    """What stands before the first row."""

    names: list[str]
    """Of the columns; no name at all where the file is empty."""
    delimiter: str
    lines: int
    """How many lines of the file have been read."""
    comments: int
    """How many of them are comments."""
    torn: bool = False
    """Whether there are names that cannot be told apart, for their quotes do not fit."""


def open_bytes(path: Path) -> IO[bytes]:
    """The file's content, unpacked where its name says that it is packed."""
    opened: IO[bytes] = _OPEN.get(path.suffix.lower(), open)(path, "rb")
    return opened


def open_text(path: Path) -> TextIO:
    """The file's text, with line ends as they are; the encoding is found by the byte order mark.

    Without one it is UTF-8, but where that has zero bytes and another encoding makes text of them.
    """
    return TextIOWrapper(open_bytes(path), encoding=_encoding(path), newline="")


def _encoding(path: Path) -> str:
    with open_bytes(path) as file:
        head = file.read(_HEAD)
    return marked_encoding(head[:4]) or _unmarked_encoding(head)


def _unmarked_encoding(head: bytes) -> str:
    """The encoding of text without a byte order mark, from its beginning."""
    found, most = "utf-8", len(head) // 8
    for encoding in _WIDE if b"\0" in head else ():
        text = head[: len(head) // 4 * 4].decode(encoding, errors="replace")
        usual = sum(map(str.isascii, text)) if "\0" not in text else 0
        if usual > most:
            found, most = encoding, usual
    return found


def undecodable_line(path: Path) -> int:
    """The first line that is not UTF-8, from 1; 0 where there is none, or the file is in another encoding."""
    if not _encoding(path).startswith("utf-8"):
        return 0
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 0


def read_header(file: TextIO, label: str) -> Header:
    """Read up to the first row: blank lines, `sep=;` as spreadsheets write it, comments, names.

    A line that begins with # is a comment unless it names the label column.
    """
    lines = comments = 0
    delimiters = _DELIMITERS
    while text := file.readline():
        lines += 1
        while text.count('"') % 2 and (more := file.readline()):  # a line end inside quotes
            text, lines = text + more, lines + 1
        separator = _SEPARATOR.fullmatch(text)
        if separator and lines == 1:
            delimiters = separator[1]
        elif text.strip():
            names, delimiter = _split(text, delimiters, label)
            if not text.startswith("#") or label in names:
                return Header(names, delimiter, lines, comments, torn=not names)
            comments += 1
    return Header([], delimiters[0], lines, comments)


def _split(text: str, delimiters: str, label: str) -> tuple[list[str], str]:
    """The names, by the delimiter that shows the label column, or else the most columns."""
    split = {delimiter: _names(text, delimiter) for delimiter in delimiters}
    best = max(split, key=lambda one: (label in split[one], len(split[one])))
    return split[best], best


def _names(text: str, delimiter: str) -> list[str]:
    try:
        row: list[str] = next(rows_of([text], delimiter), [])
    except csv.Error:  # a quote that ends before something else than this delimiter
        return []
    return [tidy(name) for name in row]


def rows_of(lines: Any, delimiter: str) -> Any:
    """The csv module's reader: quotes must be closed, and followed by a delimiter."""
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
