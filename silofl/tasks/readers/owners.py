"""Whose a sample is: the texts or numbers of a column, of which keyed digests alone are kept."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.readers.cells import MISSING
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.rows import places

Digests = NDArray[np.uint64]
"""(n, 2), of each sample's owner: equal where owners are."""
_BYTES = 16
_WHOLE = re.compile(r"(-?\d+)\.0+", re.ASCII)
_EXACT = 2.0**53


def owner_key(seed: int) -> bytes:
    """The key of a run's digests, 32 bytes; the same at every silo."""
    return hashlib.sha256(b"silofl: whose a record is" + seed.to_bytes(8, "big")).digest()


def digests(
    owners: Sequence[Any], key: bytes, what: str, word: str, rows: Sequence[int]
) -> tuple[Digests, list[str]]:
    """BLAKE2b of each owner, keyed, and what is wrong: parts of a sentence, as `Samples.problems`.

    Texts are taken as they stand, but for blanks around them, codes of accents, and the decimals of whole
    numbers, which programs write where some row had no value; of numbers the value counts, whatever their
    type, so that 7, 7.0, "7" and "7.0" are one owner, and "07" is another.

    Args:
        owners: (n,) texts or numbers; None, NaN or a text such as "" or "n/a" where one is missing.
        key: see `owner_key`.
        what: what messages call their column.
        word: what a row is called.
        rows: how each row is called.
    """
    known: dict[Any, tuple[int, int]] = {}
    found = np.zeros((len(owners), 2), np.uint64)
    missing, inexact = [], []
    for place, owner in enumerate(owners):
        if isinstance(owner, float) and _EXACT <= abs(owner) < math.inf:
            inexact.append(rows[place])
            continue
        text = owner_text(owner)
        if text.lower() in MISSING:
            missing.append(rows[place])
            continue
        if text not in known:
            digest = hashlib.blake2b(
                text.encode(errors="surrogatepass"), digest_size=_BYTES, key=key
            ).digest()
            known[text] = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        found[place] = known[text]
    problems = []
    if missing:
        problems.append(
            f"{what} has {len(missing)} missing value(s) ({places(word, missing)}): say whose those rows "
            "are, or remove them"
        )
    if inexact:
        problems.append(
            f"{what} has {len(inexact)} number(s) beyond 2^53 with decimals, whose last digits are lost "
            f"({places(word, inexact)}): write them as whole numbers or as text"
        )
    return found, problems


def owner_text(owner: Any) -> str:
    """An owner as text, the same for all ways to write it; empty where there is none."""
    if owner is None:
        return ""
    if isinstance(owner, bytes):
        return owner_text(owner.decode(errors="surrogateescape"))
    if isinstance(owner, float | Decimal):
        if not math.isfinite(owner):
            return ""
        return str(int(owner)) if owner == int(owner) else str(float(owner))
    text = tidy(str(owner))
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole[1]
