"""A keyed hash of each record's own row, by which it is decided what becomes of the record.

A multilinear hash of the row's 32-bit words, whose keys are drawn from the run's seed, cut to its upper 32
bits and mixed. Over the choice of keys the hashes of any two rows that differ are uniform and independent
(Lemire and Kaser 2014, "Strongly universal string hashing is fast", section 3), whatever the rows hold: a
part of the range gets its share of them, with no more spread than independent draws have. The mixing, one to
one, keeps rows that count up from falling into it at regular distances. More is not asked of the hash:
the seed is public, and an institution that wants to choose what it trains on chooses its file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.random_streams import Purpose, stream

Hashes = NDArray[np.uint32]
RANGE = 2**32
"""Hashes are below it."""
_BLOCK_WORDS = 1 << 16
"""Words that are looked at together: they stay in the cache."""
_LOW = np.uint64(0xFFFFFFFF)


def row_hashes(features: NDArray[Any], labels: NDArray[Any], seed: int, purpose: Purpose) -> Hashes:
    """A hash (n,) of each row and its label; rows of equal values have equal hashes.

    Of a row there counts nothing but its values as float64, in their order, and its label: not where it
    stands in the table, nor the type of the array, nor the sign of a zero. The same on every processor.

    Args:
        features: numbers (n, ...).
        labels: integers (n,), or floats (n, k).
        seed: of the run.
        purpose: other purposes have other keys.
    """
    rows = features.reshape(len(features), math.prod(features.shape[1:]))  # -1 is nothing where n is 0
    targets = labels.astype(np.int64)[:, None] if labels.ndim == 1 else labels.astype(np.float64) + 0.0
    words = 2 * targets.shape[1]
    keys = stream(seed, purpose).integers(0, 2**64, 2 * rows.shape[1] + 1 + words, dtype=np.uint64)
    first, of_labels, of_values = keys[0], keys[1 : 1 + words], keys[1 + words :]
    hashes = np.empty(len(rows), np.uint32)
    step = max(1, _BLOCK_WORDS // max(1, len(of_values)))
    for start in range(0, len(rows), step):
        values = rows[start : start + step].astype(np.float64) + 0.0  # of a zero with a sign one without
        values[np.isnan(values)] = np.nan  # a missing value is one, by whichever bits
        of_row = _words(targets[start : start + step]) @ of_labels
        linear = first + of_row + _words(values) @ of_values
        hashes[start : start + step] = _mixed((linear >> np.uint64(32)).astype(np.uint32))
    return hashes


def _words(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Lower halves of 64-bit values (n, d), then their upper halves: (n, 2 d)."""
    whole = np.ascontiguousarray(values).view(np.uint64)
    return np.concatenate([whole & _LOW, whole >> np.uint64(32)], axis=1)


def _mixed(hashes: Hashes) -> Hashes:
    """MurmurHash3's mixing of 32 bits (Appleby, public domain), which is one to one; in place."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes ^= hashes >> np.uint32(shift)
        hashes *= np.uint32(factor)
    hashes ^= hashes >> np.uint32(16)
    return hashes
