"""Vectors made of consecutive tensors, each with a scale and a limit of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

NO_END = 1 << 62
"""End of the one segment of a vector that has a single scale."""


@dataclass(frozen=True, eq=False)
class Segments:
    """m consecutive tensors of a vector of d coordinates; checked once, then free to use again and again.

    Args:
        ends: (m,) whole numbers, ascending: segment j holds the coordinates from ends[j - 1] (or 0) up to,
            not including, ends[j]; the last is d. Segments may be empty.
        scales: (m,) words per unit of each segment's values, finite; the weight of the silo is a factor.
        limits: (m,) largest magnitude of each segment's words, from 1; a ring of B bits has 2^(B-1) - 1.

    Raises:
        ValueError: an argument is not as described, or lengths differ.
    """

    ends: NDArray[np.int64]
    """int64 (m,), read-only."""
    scales: NDArray[np.float64]
    """float64 (m,), read-only."""
    limits: NDArray[np.int64]
    """int64 (m,), read-only."""
    size: int = field(init=False)
    """Coordinates, d."""
    largest_limit: int = field(init=False)
    """What a ring's limit is compared with."""

    def __post_init__(self) -> None:
        for name, dtype in (("ends", np.int64), ("scales", np.float64), ("limits", np.int64)):
            object.__setattr__(self, name, _frozen(name, getattr(self, name), dtype))
        check_ends(self.ends)
        if not self.ends.shape == self.scales.shape == self.limits.shape:
            raise ValueError(f"{len(self.ends)} ends, {len(self.scales)} scales, {len(self.limits)} limits")
        if not np.isfinite(self.scales).all():
            raise ValueError(f"scales are finite, not {self.scales[~np.isfinite(self.scales)][0]}")
        if (self.limits < 1).any():
            raise ValueError(f"a limit is at least 1, not {self.limits.min()}")
        object.__setattr__(self, "size", int(self.ends[-1]) if len(self.ends) else 0)
        object.__setattr__(self, "largest_limit", int(self.limits.max(initial=1)))

    def __len__(self) -> int:
        return len(self.ends)


@functools.lru_cache(maxsize=64)
def one_segment(scale: float, limit: int) -> Segments:
    """The segment of a vector of any length that has one scale and one limit."""
    return Segments(np.array([NO_END]), np.array([scale]), np.array([limit]))


def check_ends(ends: NDArray[Any]) -> None:
    """Refuse anything but an ascending int64 vector from 0."""
    if ends.dtype != np.int64 or ends.ndim != 1 or not ends.flags.c_contiguous:
        raise ValueError("ends of segments are a contiguous int64 vector")
    if len(ends) and (ends[0] < 0 or (ends[1:] < ends[:-1]).any()):
        raise ValueError("ends of segments are not negative and ascend")


def check_range(first: int, count: int, size: int) -> None:
    """Refuse coordinates that the segments do not have."""
    if first < 0:
        raise ValueError(f"a coordinate is not negative: {first}")
    if first + count > size:
        raise ValueError(f"coordinates {first} to {first + count} of a vector of {size}")


def _frozen(name: str, values: ArrayLike, dtype: type[Any]) -> NDArray[Any]:
    """A read-only copy that no caller can change after the check."""
    copy = np.array(values)
    if copy.ndim != 1 or (dtype is np.int64 and copy.size and copy.dtype.kind not in "iu"):
        raise ValueError(f"{name} of segments are a vector of {'whole ' * (dtype is np.int64)}numbers")
    copy = np.ascontiguousarray(copy, dtype)
    copy.flags.writeable = False
    return copy
