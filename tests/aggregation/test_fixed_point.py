"""Exponents, ranges and numbers in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from silofl.aggregation.fixed_point import (
    HIGHEST,
    LOWEST,
    decode_range,
    encode_exponent,
    fixed_point,
)
from silofl.aggregation.fixed_point64 import FixedPoint64
from silofl.errors import ConfigError, DataError

U16 = np.dtype(np.uint16)


@given(st.lists(st.floats(2.0**LOWEST, 2.0**HIGHEST), min_size=1, max_size=9))
def test_the_range_is_the_smallest_power_of_two_that_holds_all(magnitudes: list[float]) -> None:
    counts = np.add.reduce([encode_exponent(m, U16) for m in magnitudes], axis=0, dtype=np.uint16)
    found = decode_range(counts)
    assert found / 2 < max(magnitudes) <= found


@pytest.mark.parametrize("magnitude", [0.0, 2.0 ** (LOWEST - 5), 2.0**LOWEST])
def test_tiny_magnitudes_count_as_the_lowest(magnitude: float) -> None:
    assert decode_range(encode_exponent(magnitude, U16)) == 2.0**LOWEST


@pytest.mark.parametrize("magnitude", [math.inf, math.nan, 2.0 ** (HIGHEST + 1)])
def test_what_cannot_be_added_up_is_refused(magnitude: float) -> None:
    with pytest.raises(DataError, match="a silo has values that are not finite"):
        decode_range(encode_exponent(magnitude, U16))


@given(
    bits=st.sampled_from([8, 16, 32]),
    weights=st.lists(st.integers(1, 10**7), min_size=2, max_size=12),
    value_range=st.floats(1e-6, 1e6),
    stochastic=st.booleans(),
)
def test_no_sum_within_the_range_can_wrap(
    bits: Any, weights: list[int], value_range: float, stochastic: bool
) -> None:
    limits = [
        fixed_point(bits, value_range, len(weights), w / sum(weights), stochastic=stochastic).limit
        for w in weights
    ]
    assert sum(limits) <= 2 ** (bits - 1) - 1 + len(weights) / 2


def test_a_ring_too_small_for_the_silos_is_refused_beforehand() -> None:
    with pytest.raises(ConfigError, match="300 silos do not fit an 8-bit ring"):
        fixed_point(8, 1.0, 300, 1 / 300, stochastic=False)


@given(
    values=st.lists(
        st.lists(st.floats(-(2.0**38), 2.0**38), min_size=3, max_size=3), min_size=1, max_size=12
    ),
    bits=st.sampled_from([8, 16, 32]),
)
def test_numbers_add_up_exactly_in_steps_of_their_fraction(values: list[list[float]], bits: Any) -> None:
    code = FixedPoint64(bits, len(values), 3)
    words = [code.encode(np.array(v)) for v in values]
    total = code.decode(np.add.reduce(words, axis=0, dtype=words[0].dtype))
    expected = [sum(round(v[i] * 2**24) for v in values) / 2**24 for i in range(3)]
    assert total.tolist() == expected
