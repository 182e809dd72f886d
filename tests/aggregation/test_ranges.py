"""The agreement on ranges: the largest exponent of each tensor, and nothing else of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silofl.aggregation.formats.scaled import HIGHEST, LEVELS, LOWEST, decode_ranges, encode_exponents
from silofl.errors import DataError

rings = st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32)])
magnitudes = st.floats(2.0**LOWEST, 2.0**HIGHEST)


def total(silos: list[list[float]], dtype: Any) -> Any:
    words = [encode_exponents(np.array(one, np.float64), dtype) for one in silos]
    return np.add.reduce(words, axis=0, dtype=dtype)


def test_there_is_a_level_for_every_exponent_and_one_beyond() -> None:
    """2^-64 to 2^96: what docs/protocol.md states, and what silos of other versions count on."""
    assert (LOWEST, HIGHEST, LEVELS) == (-64, 96, 162)
    for bits, per_level in ((8, 8), (16, 4), (32, 2)):
        assert encode_exponents(np.ones(3), np.dtype(f"uint{bits}")).shape == (3 * 162 * per_level,)


@given(st.lists(st.lists(magnitudes, min_size=3, max_size=3), min_size=1, max_size=6), rings)
def test_each_range_is_the_smallest_power_of_two_that_holds_all(silos: list[list[float]], dtype: Any) -> None:
    found = decode_ranges(total(silos, dtype), ("a", "b", "c"))
    for largest, one in zip(np.max(silos, axis=0), found, strict=True):
        assert one / 2 < largest <= one


@pytest.mark.parametrize("magnitude", [0.0, 5e-324, 2.0 ** (LOWEST - 5), 2.0**LOWEST])
def test_tiny_magnitudes_count_as_the_lowest(magnitude: float) -> None:
    assert decode_ranges(total([[magnitude]], np.dtype(np.uint16)), ("a",)).tolist() == [2.0**LOWEST]


@pytest.mark.parametrize("magnitude", [math.inf, math.nan, np.nextafter(2.0**HIGHEST, np.inf)])
def test_what_cannot_be_added_up_is_refused_by_the_name_of_its_tensor(magnitude: float) -> None:
    with pytest.raises(DataError, match=r"a silo's layer\.b has values that are not finite") as caught:
        decode_ranges(total([[1.0, magnitude], [2.0, 1.0]], np.dtype(np.uint16)), ("layer.a", "layer.b"))
    assert caught.value.rank == 0


@pytest.mark.covering(0)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_the_sum_shows_neither_who_nor_how_many_reached_a_level(dtype: Any) -> None:
    """Up to the maximum all bytes of any sum are uniform, above it there are zeros."""
    runs = 400
    for silos in ([[8.0], [8.0], [8.0]], [[8.0], [1e-9], [0.0]]):
        sums = np.array([total(silos, np.dtype(dtype)) for _ in range(runs)])
        reached = (3 - LOWEST + 1) * (8 // sums.itemsize)
        assert not sums[:, reached:].any()
        counts = np.bincount(
            np.ascontiguousarray(sums[:, :reached]).view(np.uint8).reshape(-1), minlength=256
        )
        mean = counts.sum() / 256
        assert 141 < float(((counts - mean) ** 2).sum() / mean) < 415  # 1e-9 on either side
        levels = np.ascontiguousarray(sums[:, :reached]).view(np.uint64)
        assert len(np.unique(levels)) == levels.size
