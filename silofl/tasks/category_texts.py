"""The text of a category, the same for all ways in which programs write it."""

from __future__ import annotations

from typing import Any

from silofl.tasks.readers.cells import MISSING
from silofl.tasks.readers.owners import owner_text

MISSING_CATEGORY, OTHER_CATEGORY = "missing", "other"
"""Categories that take what has no value, and every text that is no category."""
_TRUTHS = frozenset(("true", "false"))
_PANDAS_NA = "<NA>"


def category_text(value: Any) -> str:
    """A cell's text as categories are compared; empty where the cell holds nothing.

    Without blanks around it, accents in one code; whole numbers without decimals, so that 1, 1.0 and "1.0"
    are one category; truth values as `true` and `false`.
    """
    text = owner_text(value)
    if text == _PANDAS_NA:
        return ""
    return text.lower() if text.lower() in _TRUTHS else text


def is_missing(text: str) -> bool:
    """Whether the text of a cell that is no category stands for a missing value."""
    return text.lower() in MISSING
