"""How silos are dealt into buckets, and what many draws tell of one silo."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from silofl.aggregation.bucket_ranges import common_ranges
from silofl.aggregation.bucketing import Bucketing
from silofl.aggregation.formats.scaled import encode_exponents

SILOS, SIZE = 9, 3


def dealt(draw: int) -> Any:
    return Bucketing(SIZE).dealt(draw.to_bytes(32), range(SILOS))


def test_each_silo_is_with_each_other_equally_often() -> None:
    rounds, met = 4000, Counter[tuple[int, int]]()
    for number in range(rounds):
        buckets = dealt(number)
        assert sorted(map(len, buckets)) == [3, 3, 3]
        met.update((a, b) for bucket in buckets for a in bucket for b in bucket if a < b)
    expected = rounds * 2 / (SILOS - 1)
    assert len(met) == SILOS * (SILOS - 1) // 2
    assert max(abs(count - expected) for count in met.values()) < 5 * expected**0.5


@pytest.mark.parametrize(
    ("silos", "size", "lengths"), [(10, 3, [3, 3, 4]), (11, 3, [3, 4, 4]), (5, 3, [5]), (2, 3, [])]
)
def test_no_bucket_is_smaller_than_its_size(silos: int, size: int, lengths: list[int]) -> None:
    buckets = Bucketing(size).dealt(bytes(32), range(silos))
    assert sorted(map(len, buckets)) == lengths
    assert sorted(silo for bucket in buckets for silo in bucket) == list(range(silos if lengths else 0))


@pytest.mark.parametrize(
    ("redraw", "turns"), [(None, [0] * 6), (1, [0, 1, 2, 3, 4, 5]), (3, [0, 0, 0, 1, 1, 1])]
)
def test_rounds_that_have_the_same_buckets(redraw: int | None, turns: list[int]) -> None:
    assert [Bucketing(3, redraw=redraw).turn(number) for number in range(1, 7)] == turns


def seen(draws: list[int], updates: Any) -> tuple[Any, int]:
    """What least squares makes of means of buckets, and how many of the unknowns are known."""
    rows = [np.isin(np.arange(SILOS), bucket) / SIZE for draw in draws for bucket in dealt(draw)]
    left = np.array(rows)
    return np.linalg.lstsq(left, left @ updates, rcond=None)[0], int(np.linalg.matrix_rank(left))


def test_draws_over_some_rounds_show_updates_that_stay_the_same() -> None:
    updates = np.random.default_rng(0).standard_normal((SILOS, 4))
    found, known = seen(list(range(6)), updates)
    assert known == SILOS
    np.testing.assert_allclose(found, updates, atol=1e-9)


def test_kept_buckets_show_their_sums_alone() -> None:
    updates = np.random.default_rng(0).standard_normal((SILOS, 4))
    found, known = seen([0] * 6, updates)
    assert known == SILOS // SIZE
    for bucket in dealt(0):
        np.testing.assert_allclose(found[list(bucket)], np.tile(updates[list(bucket)].mean(axis=0), (3, 1)))


def test_liars_widen_no_range_and_an_honest_bucket_has_asked_for_each() -> None:
    """Four buckets, of which one may ask for anything, of two tensors."""
    asked = [(1.0, 0.25), (2.0, 0.5), (4.0, 0.125), (np.inf, 2.0**40)]
    words = [encode_exponents(np.array(one), np.dtype(np.uint16)) for one in asked]
    np.testing.assert_array_equal(common_ranges(words, 2, 1), [16.0, 2.0])
    np.testing.assert_array_equal(common_ranges(words, 2, 0), [np.inf, 2.0**42])
