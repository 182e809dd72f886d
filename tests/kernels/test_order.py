"""Order statistics and distances of rows, against NumPy: ragged tiles, and rows that lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl_kernels import mean_around, median, squared_distances, trimmed_mean
from silofl_kernels.cpu.order import network

SHAPES = [(1, 1), (2, 127), (3, 128), (4, 129), (7, 300), (10, 1000), (17, 5)]
DTYPES = [np.float32, np.float64]


def rows_of(shape: tuple[int, int], dtype: Any) -> Any:
    """With equal values among them."""
    drawn = np.random.default_rng(shape[0]).standard_normal(shape).astype(dtype)
    return np.where(np.abs(drawn) < 0.3, dtype(0.25), drawn)


@pytest.mark.parametrize("count", range(1, 9))
def test_the_network_sorts_zeros_and_ones(count: int) -> None:
    """So it sorts anything (Knuth, TAOCP 3, theorem 5.3.4Z)."""
    for number in range(1 << count):
        for first, last in ((0, count), (count // 2, count // 2 + 1)):
            values = [number >> place & 1 for place in range(count)]
            ordered = sorted(values)
            for low, high in network(count, first, last).reshape(-1, 2):
                values[low], values[high] = sorted((values[low], values[high]))
            assert values[first:last] == ordered[first:last]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_medians_and_trimmed_means(shape: tuple[int, int], dtype: Any) -> None:
    x, out = rows_of(shape, dtype), np.empty(shape[1], dtype)
    before = x.copy()
    median(x, out)
    assert np.array_equal(out, np.median(x, axis=0))
    for trim in range((shape[0] + 1) // 2):
        trimmed_mean(list(x), out, trim=trim)
        ordered = np.sort(x.astype(np.float64), axis=0)[trim : shape[0] - trim]
        np.testing.assert_allclose(out, ordered.mean(axis=0).astype(dtype), rtol=1e-6, atol=1e-7)
    assert np.array_equal(x, before)


def nearest(column: Any, reference: Any, count: int) -> float:
    """Of values equally far the smaller first."""
    ordered = sorted((abs(float(one) - float(reference)), float(one)) for one in column)
    return sum(one for _, one in ordered[:count]) / count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_means_around_a_reference(shape: tuple[int, int], dtype: Any) -> None:
    x, out = rows_of(shape, dtype), np.empty(shape[1], dtype)
    reference = np.random.default_rng(1).standard_normal(shape[1]).astype(dtype)
    for count in {1, max(1, shape[0] - 2), shape[0]}:
        mean_around(x, reference, out, count=count)
        expected = [nearest(x[:, i], reference[i], count) for i in range(shape[1])]
        np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-7)
    mean_around(np.array([[1.0], [2], [0.5]]), np.array([1.0]), out := np.empty(1), count=2)
    assert out == [0.75]


def test_a_value_beyond_equal_ones_may_be_nearer() -> None:
    x, out = np.array([[-2.0], [-2], [0], [1.5]]), np.empty(1)
    mean_around(x, np.zeros(1), out, count=3)
    assert out == [(-2 + 0 + 1.5) / 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_distances(shape: tuple[int, int], dtype: Any) -> None:
    x = rows_of(shape, dtype)
    wide = x.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(axis=2)
    found = squared_distances(x)
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.array_equal(found, found.T)
    x[-1, -1] = np.inf
    assert np.isnan(squared_distances(list(x)).diagonal()).tolist() == [False] * (shape[0] - 1) + [True]


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    x, out = np.ones((3, 4)), np.zeros(4)
    for bad in (
        lambda: median(x, out[:3]),
        lambda: median(x, out.astype(np.float32)),
        lambda: trimmed_mean(x, out, trim=2),
        lambda: trimmed_mean(x, out, trim=-1),
        lambda: mean_around(x, out[:2], out, count=1),
        lambda: mean_around(x, out.astype(np.float32), out, count=1),
        lambda: mean_around(x, out, out, count=4),
        lambda: squared_distances(x[:, ::2]),
        lambda: squared_distances(x.astype(np.int64)),
    ):
        with pytest.raises((ValueError, TypeError)):
            bad()
    assert not out.any()
