"""Columns that one silo seems to have in another unit, for one who may read the data of all silos.

Between institutions there is no such comparison: how large the values of a column typically are at one silo
tells of its data, and a sum that hides it says no more than that someone's are large. There units belong in
the names of columns, which are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from silofl.tasks.column_kinds import Schema

FACTOR = 8.0
"""Values so many times larger are taken for another unit: grams a decilitre and a litre differ by ten,
and cholesterol in milligrams a decilitre and millimoles a litre by 39."""


def unit_notes(schema: Schema, magnitudes: Mapping[int, NDArray[np.float64]]) -> list[str]:
    """A line for each column and silo whose values are typically far larger or smaller than at the others.

    Args:
        schema: the columns.
        magnitudes: (d,) of each silo, a typical |x| of each column that is not zero; 0 where all are.
    """
    if {len(sizes) for sizes in magnitudes.values()} != {len(schema)}:
        return []
    found = []
    for place, (name, _) in enumerate(schema):
        sizes = {silo: float(one[place]) for silo, one in magnitudes.items() if one[place] > 0}
        for silo, factor in _far(sizes).items():
            times = f"{_round(factor):,} times {'larger' if factor > 1 else 'smaller'}"
            found.append(
                f"column {name or place + 1!r} of silo {silo} has values about {times} "
                "than other silos': are the units the same?"
            )
    return found


def _far(sizes: Mapping[int, float]) -> dict[int, float]:
    """How many times larger than is usual, the median; of two silos that differ, the larger alone."""
    usual = median_low(sizes.values()) if sizes else 1.0
    factors = {silo: size / usual for silo, size in sizes.items()}
    return {silo: factor for silo, factor in factors.items() if max(factor, 1 / factor) >= FACTOR}


def _round(factor: float) -> int:
    """To one digit: 996 times is about 1000 times."""
    times = max(factor, 1 / factor)
    power = 10.0 ** math.floor(math.log10(times))
    return int(round(times / power) * power)
