"""The union of all silos' categories by a sum, from which no silo learns which of them has which.

An invertible Bloom lookup table (Goodrich and Mitzenmacher 2011) is linear: the sum of all silos' tables is
the table of all their entries, so that a secure sum gives the union and nothing else (Gascon et al. 2023,
"Federated Heavy Hitter Recovery under Linear Sketching", section 4). What all learn of a category is its text
and how many silos told it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig
from silofl.errors import DataError
from silofl.tasks.readers import Samples
from silofl.tasks.readers.category_texts import (
    MISSING_CATEGORY,
    OTHER_CATEGORY,
    category_text,
    is_missing,
)
from silofl.tasks.readers.column_roles import tidy

Floats = NDArray[np.float64]
MOST = 256
"""Categories of all silos together."""
LONGEST = 60
"""Bytes of a category's text in UTF-8."""
_TABLES, _CELLS, _PIECE = 4, 256, 5
"""Each text is in one cell of each table, in pieces of so many bytes."""
_NUMBERS = 2 + LONGEST // _PIECE
"""Of a cell: how many entries, a check of their text, and its pieces; sums stay below 2^53."""
SIZE = _TABLES * _CELLS * _NUMBERS


def frequent(data: DataConfig, samples: Samples, chosen: NDArray[np.bool_]) -> dict[str, list[str]]:
    """Categories of each column of "union" that enough of the `chosen` samples (n,) have, or of their owners.

    DataError, naming the column, where a text is too long to be told, or there are too many.
    """
    found = {}
    for name in sorted(tidy(one) for one, listed in data.categorical.items() if listed == "union"):
        place = [one for one, _ in samples.schema].index(name)
        keys, owners = samples.features[chosen, place], samples.owners
        if owners is not None:
            once = np.unique(np.column_stack([owners[chosen], keys.view(np.uint64)]), axis=0)
            keys = np.ascontiguousarray(once[:, -1]).view(np.float64)
        known, counts = np.unique(keys[~np.isnan(keys)], return_counts=True)
        texts = samples.texts.get(name, {})
        told = {texts[key] for key in known[counts >= data.least_count].tolist()}
        found[name] = sorted(told - {MISSING_CATEGORY, OTHER_CATEGORY})
        if any(len(_bytes(text)) > LONGEST for text in found[name]):
            raise DataError(
                f"column {name!r} has categories of more than {LONGEST} bytes, which are not told: shorten "
                f"them, or list those of data.categorical.{name}"
            )
        if len(found[name]) > MOST:
            raise _too_many(name)
    return found


def table_of(texts: Iterable[str], seed: int) -> Floats:
    """The table (`SIZE`,) of texts, each once."""
    table = np.zeros((_TABLES, _CELLS, _NUMBERS))
    for text in texts:
        for number, cell in enumerate(_cells(text, seed)):
            table[number, cell] += _entry(text)
    return table.reshape(-1)


def texts_of(total: Floats, name: str, seed: int) -> list[str]:
    """The texts, in order, that are in a sum of tables. DataError, naming the column, for too many."""
    if not np.isfinite(total).all():
        raise _too_many(name)
    table = np.rint(total).reshape(_TABLES, _CELLS, _NUMBERS)
    found, looking = set[str](), True
    while looking:
        looking = False
        for number, cell in np.argwhere(table[:, :, 0] > 0).tolist():
            many = table[number, cell, 0]
            text = _only(table[number, cell]) if many > 0 else None  # an earlier one may have emptied it
            if text is None or text in found or _cells(text, seed)[number] != cell:
                continue
            for other, place in enumerate(_cells(text, seed)):
                table[other, place] -= many * _entry(text)
            found.add(text)
            looking = True
    if table.any() or len(found) > MOST:
        raise _too_many(name)
    return sorted(found)


def _too_many(name: str) -> DataError:
    return DataError(
        f"column {name!r} has more than {MOST} categories at all silos together, or a silo's numbers are "
        f"wrong: list those that matter, and 'other', in data.categorical.{name}, or raise data.least_count",
        rank=0,
    )


def _entry(text: str) -> Floats:
    raw = _bytes(text).ljust(LONGEST, b"\0")
    pieces = [int.from_bytes(raw[start : start + _PIECE], "big") for start in range(0, LONGEST, _PIECE)]
    return np.array([1, int.from_bytes(_digest(text, b"check")[:_PIECE], "big"), *pieces], np.float64)


def _only(cell: Floats) -> str | None:
    """The text of a cell that has one, however often; None where it has several."""
    if not cell[0]:  # of nothing, or of what adds up to it
        return None
    parts = cell / cell[0]
    if not (parts == np.rint(parts)).all() or (parts < 0).any() or (parts >= 256.0**_PIECE).any():
        return None
    raw = b"".join(int(part).to_bytes(_PIECE, "big") for part in parts[2:].tolist())
    text = raw.rstrip(b"\0").decode(errors="replace")
    fits = len(_bytes(text)) <= LONGEST and np.array_equal(_entry(text), parts)
    return text if fits and _is_category(text) else None


def _is_category(text: str) -> bool:
    """Whether a silo that keeps to the rules could have told it: lies would be two features of one name."""
    every = (MISSING_CATEGORY, OTHER_CATEGORY)
    return text == category_text(text) and text not in every and not is_missing(text)


def _cells(text: str, seed: int) -> list[int]:
    """In each table the cell of a text."""
    digest = _digest(text, seed.to_bytes(8, "big"))
    return [int.from_bytes(digest[4 * k : 4 * k + 4], "big") % _CELLS for k in range(_TABLES)]


def _digest(text: str, key: bytes) -> bytes:
    return hashlib.blake2b(_bytes(text), digest_size=16, key=key).digest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
