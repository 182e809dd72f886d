"""Persons who have several of a silo's samples."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.errors import DataError
from silofl.tasks.readers.cells import MISSING
from silofl.tasks.readers.owners import owner_text

Numbers = NDArray[np.int64]
"""(n,): of each sample the number of its owner, from 0 in the order in which owners first come."""


def numbered(owners: NDArray[Any]) -> Numbers:
    """The numbers of owners (n,) or (n, k), of which equal rows are one."""
    _, first, place = np.unique(owners, axis=0, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[place.reshape(-1)]


def owners_of(given: Any, samples: int, silo: int) -> Numbers | None:
    """What a task's own `data` gives as owners, as numbers; no value is kept, or told.

    Raises:
        DataError: there is not one for each training sample, one is missing, or they are of no type that can
            be compared.
    """
    if given is None:
        return None
    who = f"silo {silo}: the task's data() returned as owners"
    try:
        values = np.asarray(given)
    except Exception:
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biufUSO" or values.ndim != 1:
        raise DataError(
            f"{who} {_kind(given)} that is no list of numbers or texts: return one for each training sample",
            rank=silo,
        )
    if len(values) != samples:
        raise DataError(
            f"{who} {len(values)} value(s) beside {samples} training sample(s): return one for each",
            rank=silo,
        )
    texts = [_text(one) for one in (given.tolist() if isinstance(given, np.ndarray) else given)]
    missing = [not text for text in texts]
    if any(missing):
        raise DataError(
            f"{who} {sum(missing)} that are missing, or no text and no number up to 2^53, the first of "
            f"sample {missing.index(True)}: return one for each training sample",
            rank=silo,
        )
    return numbered(np.array(texts))


def _text(owner: Any) -> str:
    """As `owner_text`, which all ways to write an owner share; empty where it is none."""
    value = owner.item() if hasattr(owner, "item") else owner
    if not isinstance(value, bool | int | float | Decimal | str | bytes):
        return ""
    if isinstance(value, float) and not abs(value) < 2.0**53:
        return ""
    text = owner_text(value)
    return "" if text.lower() in MISSING else text


def _kind(given: Any) -> str:
    return f"a {type(given).__name__}"
