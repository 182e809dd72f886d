"""Log lines of this program on standard error."""

from __future__ import annotations

import sys


def log(sentence: str) -> None:
    """Print one line about this program to standard error, in one write: launchers merge ranks' output."""
    sys.stderr.write(f"silofl: {sentence}\n")
    sys.stderr.flush()
