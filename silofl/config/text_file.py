"""Text that people write: with or without the byte order mark that editors put before it."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks (Unicode 16, section 23.8); that of UTF-32 begins as that of UTF-16 does."""


def marked_encoding(head: bytes) -> str | None:
    """The encoding that a file's first four bytes show by a byte order mark; None without one."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), None)


def read_text(path: Path) -> str:
    """A file's text in UTF-8, or in what its byte order mark says, without the mark.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text in that encoding.
    """
    return decoded(path.read_bytes())


def decoded(content: bytes) -> str:
    """The text of a file's content, as `read_text` gives it. UnicodeDecodeError where it is none."""
    return content.decode(marked_encoding(content[:4]) or "utf-8")
