"""A sketch is the naive sum in every bucket, an estimate the naive median, and both are what is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import CountSketch, Stream, keystream, sketch, unsketch

SIZES = [
    (0, 1, 1),
    (1, 1, 1),
    (2, 3, 1),
    (100, 3, 7),
    (1000, 5, 64),
    (1000, 1, 63),
    (3000, 5, 511),
    (5000, 3, 700),
]
MASK = (1 << 64) - 1


def stream_of(key: int) -> Stream:
    return Stream("aes-128-ctr", key.to_bytes(16, "little"))


def word(seed: int, number: int) -> int:
    """SplitMix64 as it is published: the state grows by a constant, and is mixed."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def places(key: int, size: int, rows: int, columns: int) -> tuple[Any, Any]:
    """Bucket and sign of each value in each row, int (rows, size), straight from the description."""
    content = np.zeros(8, np.uint8)
    keystream(stream_of(key), content)
    seed, m = int.from_bytes(content.tobytes(), "little"), min(512, columns)
    buckets, signs = np.zeros((rows, size), int), np.zeros((rows, size), int)
    for row in range(rows):
        for i in range(size):
            b, j = divmod(i, m)
            first = (rows * b + row) * (1 + -(-m // 64))
            buckets[row, i] = ((word(seed, first) >> 32) * columns // 2**32 + j) % columns
            signs[row, i] = -1 if word(seed, first + 1 + j // 64) >> j % 64 & 1 else 1
    return buckets, signs


def made(x: Any, way: CountSketch) -> Any:
    out = np.full(way.size, np.nan, x.dtype)
    sketch(x, out, way)
    return out


def estimates(sums: Any, size: int, way: CountSketch) -> Any:
    out = np.full(size, np.nan, sums.dtype)
    unsketch(sums, out, way)
    return out


def test_the_words_are_those_that_are_published() -> None:
    """Of the seed 1234567: of the reference implementation, as Rosetta Code has them."""
    told = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [word(1234567, number) for number in range(4)] == told


@pytest.mark.parametrize(("size", "rows", "columns"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_and_estimates_are_the_naive_ones(size: int, rows: int, columns: int, dtype: Any) -> None:
    way, x = CountSketch(stream_of(5), rows, columns), np.random.default_rng(size).standard_normal(size)
    x = x.astype(dtype)
    buckets, signs = places(5, size, rows, columns)
    want = np.zeros((rows, columns), dtype)
    for row in range(rows):
        np.add.at(want[row], buckets[row], signs[row].astype(dtype) * x)
    assert (made(x, way) == want.ravel()).all()
    said = np.array([signs[row] * want[row][buckets[row]] for row in range(rows)])
    assert (estimates(want.ravel(), size, way) == np.median(said, axis=0)).all()


@settings(deadline=None, max_examples=50)
@given(
    size=st.integers(0, 3000),
    rows=st.sampled_from((1, 3, 5)),
    columns=st.integers(1, 900),
    key=st.integers(0, 99),
)
def test_sketches_add_up(size: int, rows: int, columns: int, key: int) -> None:
    """Of whole numbers, whose sums are exact."""
    way, rng = CountSketch(stream_of(key), rows, columns), np.random.default_rng(key)
    one, other = rng.integers(-1000, 1000, (2, size)).astype(np.float64)
    assert (made(one, way) + made(other, way) == made(one + other, way)).all()


def test_values_meet_as_often_as_with_a_bucket_drawn_for_each() -> None:
    """The mean square of what one row adds to a value is |x|^2 / columns, whatever the others of x."""
    size, columns, found = 4000, 600, []
    x = np.zeros(size)
    x[700:] = 1.0
    for key in range(400):
        way = CountSketch(stream_of(key), 1, columns)
        found.append(estimates(made(x, way), size, way)[:80])
    noise = np.square(found).mean()
    assert noise == pytest.approx((size - 700) / columns, rel=0.15)
    assert abs(np.mean(found)) < 0.1


def test_the_largest_values_are_told_from_many_small_ones() -> None:
    size, way, rng = 100_000, CountSketch(stream_of(1), 5, 4000), np.random.default_rng(0)
    x = rng.standard_normal(size)
    large = np.sort(rng.choice(size, 50, replace=False))
    x[large] = 60 * rng.choice([-1, 1], 50)
    found = estimates(made(x, way), size, way)
    assert np.sort(np.argsort(-np.abs(found))[:50]).tolist() == large.tolist()
    assert np.abs(found[large] - x[large]).max() < 20


def test_what_is_no_sketch_is_refused() -> None:
    for rows, columns in ((0, 5), (2, 5), (7, 5), (3, 0), (3, 1 << 32)):
        with pytest.raises(ValueError, match=f"a sketch of {rows} rows of {columns} sums"):
            CountSketch(stream_of(0), rows, columns)
    way, x = CountSketch(stream_of(0), 3, 5), np.zeros(9)
    with pytest.raises(ValueError, match="14 sums for 3 rows of 5"):
        sketch(x, np.zeros(14), way)
    with pytest.raises(TypeError, match="sums are float32, the vector is float64"):
        unsketch(np.zeros(15, np.float32), x, way)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="out is written to"):
        unsketch(np.zeros(15), x, way)
    assert "seed" not in repr(way)
