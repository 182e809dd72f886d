"""Standard streams of this program that outlive their readers, and log lines on standard error."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = frozenset({errno.EPIPE, errno.EIO})
"""A reader that has what it wanted, such as `head`, or a terminal that was closed."""


def log(sentence: str) -> None:
    """Print one line about this program to standard error, in one write: launchers merge ranks' output."""
    sys.stderr.write(f"silofl: {sentence}\n")
    sys.stderr.flush()


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
