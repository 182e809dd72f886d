"""Who owns which part of a vector: rank k owns slice k."""

from __future__ import annotations

from itertools import pairwise

ALIGNMENT = 64
"""Slices start at multiples of this many values: whole cache lines, whole cipher blocks."""


def slice_bounds(size: int, ranks: int) -> list[int]:
    """Offsets b (ranks + 1,) with slice k = [b[k], b[k + 1]); lengths differ only at the end.

    Trailing slices are shorter, or empty where the vector is short.
    """
    length = -(-size // ranks)
    length += -length % ALIGNMENT
    return [min(k * length, size) for k in range(ranks + 1)]


def slice_counts(bounds: list[int]) -> list[int]:
    """Length of every slice."""
    return [end - start for start, end in pairwise(bounds)]
