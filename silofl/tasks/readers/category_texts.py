"""The text of a category, the same for all ways in which programs write it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from silofl.tasks.readers.cells import MISSING
from silofl.tasks.readers.owners import owner_text

MISSING_CATEGORY, OTHER_CATEGORY = "missing", "other"
"""Categories that take what has no value, and every text that is no category."""
MISSING_CODE, UNKNOWN_CODE = -1, -2
"""Of `category_place`: of no value, and of a text that is no category."""
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


def category_place(categories: Sequence[str]) -> Callable[[str], int]:
    """What makes a text of `category_text` the place of its category, or one of the codes below 0."""
    known = {category_text(one): place for place, one in enumerate(categories)}
    missing = known.get(MISSING_CATEGORY, MISSING_CODE)
    other = known.get(OTHER_CATEGORY, UNKNOWN_CODE)

    def place(text: str) -> int:
        return known.get(text, missing if is_missing(text) else other)

    return place


def category_key(text: str) -> float:
    """A number that stands for a category's text in a table of numbers: 52 bits of its BLAKE2b.

    It does not depend on which other categories there are, so that a record's role does not, either.
    """
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") >> 12)
