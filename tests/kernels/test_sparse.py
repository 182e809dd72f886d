"""The largest values are those of a stable sort; sums at coordinates are those of a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import gather, scatter_add, top_k


def naive_top(x: np.ndarray, k: int) -> list[int]:
    """Sorted by magnitude bits, the lowest coordinate first among equals."""
    words = x.view(f"u{x.itemsize}") & np.array(-1, f"i{x.itemsize}").view(f"u{x.itemsize}") >> np.uint8(1)
    order = sorted(range(x.size), key=lambda i: (-int(words[i]), i))
    return sorted(order[:k])


def check_top(x: np.ndarray, k: int, dtype: str = "uint32") -> None:
    kept, indices, values = x.tobytes(), np.full(k + 2, 7, dtype), np.full(k + 2, 7, x.dtype)
    top_k(x, indices[1:-1], values[1:-1])
    want = naive_top(x, k)
    assert indices[1:-1].tolist() == want
    assert values[1:-1].tobytes() == x[want].tobytes()
    assert [*indices[[0, -1]], *values[[0, -1]]] == [7] * 4
    assert x.tobytes() == kept


@pytest.mark.parametrize(
    ("dtype", "index"),
    [("float32", "uint32"), pytest.param("float64", "uint64", marks=pytest.mark.long)],
)
def test_the_largest(dtype: str, index: str) -> None:
    rng = np.random.default_rng(0)
    special = np.array([0, -0.0, 1e-45, -1, 1, 1, np.inf, -np.inf, np.nan, -np.nan], dtype)
    for size in (0, 1, 2, 5, 31, 32, 33, 64, 100, 1000):
        normal = rng.standard_normal(size).astype(dtype)
        near = (1 + rng.integers(0, 5, size) * np.finfo(dtype).eps).astype(dtype)  # differ in the last bits
        for x in (normal, near, np.ones(size, dtype), rng.choice(special, size), np.exp(20 * normal)):
            for k in {0, min(1, size), size // 3, size - min(1, size), size}:
                check_top(x.astype(dtype), k, index)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32), max_size=200), st.floats(0, 1))
def test_any_values(values: list[float], part: float) -> None:
    check_top(np.array(values, np.float32), int(part * len(values)))


def test_sums_at_coordinates() -> None:
    rng = np.random.default_rng(0)
    for dtype, index in (("float32", "uint32"), ("float64", "uint64")):
        for size in (0, 1, 37, 1000):
            target, values = rng.standard_normal(50).astype(dtype), rng.standard_normal(size).astype(dtype)
            indices = rng.integers(0, 50, size).astype(index)  # many of them twice
            want = target.copy()
            for i, value in zip(indices, values, strict=True):
                want[i] = float(want[i]) + 0.3 * float(value)
            found = np.zeros(size, dtype)
            gather(target, indices, found)
            assert found.tolist() == target[indices].tolist()
            scatter_add(target, indices, values, weight=0.3)
            assert target.tolist() == want.tolist()


def test_selected_values_come_back() -> None:
    x = np.random.default_rng(0).standard_normal(999).astype(np.float32)
    indices, values, back = np.zeros(100, np.uint32), np.zeros(100, np.float32), np.zeros_like(x)
    top_k(x, indices, values)
    scatter_add(back, indices, values)
    rest = x - back
    assert np.count_nonzero(rest == 0) == 100
    assert np.abs(rest).max() <= np.abs(values).min()


@pytest.mark.parametrize(
    ("x", "indices", "values", "sentence"),
    [
        (np.zeros(8, np.float16), np.zeros(2, np.uint32), np.zeros(2, np.float16), "is float32 or float64"),
        (
            np.zeros(8, np.float32),
            np.zeros(2, np.int64),
            np.zeros(2, np.float32),
            "uint32 or uint64, not int64",
        ),
        (
            np.zeros(8, np.float32),
            np.zeros(2, np.uint32),
            np.zeros(2),
            "are float64, the vector is float32",
        ),
        (np.zeros(8, np.float32), np.zeros(2, np.uint32), np.zeros(3, np.float32), "two vectors of 2 and 3"),
        (np.zeros(16, np.float32)[::2], np.zeros(2, np.uint32), np.zeros(2, np.float32), "contiguous"),
        (np.zeros(8, np.float32), np.zeros(4, np.uint32)[::2], np.zeros(2, np.float32), "contiguous"),
    ],
)
def test_bad_arguments(x: np.ndarray, indices: np.ndarray, values: np.ndarray, sentence: str) -> None:
    for function in (top_k, gather, scatter_add):
        with pytest.raises((ValueError, TypeError), match=sentence):
            function(x, indices, values)


def test_coordinates_that_are_not_there() -> None:
    x, values = np.zeros(8, np.float32), np.full(3, 5, np.float32)
    for largest in (8, 2**32 - 1):
        indices = np.array([0, largest, 1], np.uint32)
        for function in (gather, scatter_add):
            with pytest.raises(ValueError, match=f"coordinate {largest} of a vector of 8"):
                function(x, indices, values)
    with pytest.raises(ValueError, match="the 9 largest of 8 values"):
        top_k(x, np.zeros(9, np.uint32), np.zeros(9, np.float32))
    assert not x.any()
    assert (values == 5).all()
