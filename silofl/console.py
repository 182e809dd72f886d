"""Standard streams of this program that outlive their readers, and log lines on standard error."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

GONE = frozenset({errno.EPIPE, errno.EIO})
"""A reader that has what it wanted, such as `head`, or a terminal that was closed."""


def printable(text: str) -> str:
    """The text on one line, every character that is none to look at written as an escape.

    What moves the cursor, colours, breaks or turns lines round (controls, ANSI sequences, line separators,
    marks of direction) could make a terminal or a log show what this program never said, and peers write
    parts of what it says.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


LOGGER = logging.getLogger("silofl")
"""What is said of a run, beside what is printed: `silofl.silo_log` writes it to files."""
LOGGER.addHandler(logging.NullHandler())  # without any, Python would print it
LOGGER.propagate = False  # nothing is printed twice where a program has set up logging of its own
LOGGER.setLevel(logging.INFO)


def log(sentence: str, level: int = logging.WARNING) -> None:
    """Print one line about this program to standard error, in one write: launchers merge ranks' output.

    It goes to `LOGGER`, too.
    """
    sys.stderr.write(f"silofl: {printable(sentence)}\n")
    sys.stderr.flush()
    LOGGER.log(level, "%s", sentence)


def log_of_data(sentence: str) -> None:
    """Say something about this process's own data: on standard error, or where `data_told_to` has it."""
    (_TOLD.get() or log)(sentence)


_TOLD: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)


@contextmanager
def data_told_to(keep: Callable[[str], None]) -> Iterator[None]:
    """Have `keep` what is said about data in this thread: who reads the launcher's terminal may be others."""
    before = _TOLD.set(keep)
    try:
        yield
    finally:
        _TOLD.reset(before)


class Output(io.FileIO):
    """A standard stream whose failure ends nothing: what cannot be written is dropped.

    Attributes:
        lost: the first error that was not a reader's end; None without one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data: Any) -> int:
        """See `io.FileIO`."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                self.lost = self.lost or error
            return memoryview(data).nbytes


def open_streams() -> Output:
    """Make sure that this process has all three standard streams; returns standard output's.

    A closed one becomes /dev/null, or the next file or socket that is opened would take its number and get
    what is printed. A character that the locale has not is written as an escape.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115, it stays open
    output = Output(1)
    sys.stdout, sys.stderr = _text(output, sys.stdout), _text(Output(2), sys.stderr, lines=True)
    return output


def _text(output: Output, before: TextIO | None, *, lines: bool = False) -> TextIO:
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=lines or output.isatty(),
    )
