"""A support is the naive draw of each stratum, whichever part of it is asked for, and fair to coordinates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl_kernels import KEY_BYTES, RandomK, Stream, keystream

SIZES = [(1, 0), (1, 1), (2, 1), (3, 2), (7, 7), (10, 3), (64, 8), (1000, 37), (1001, 500), (70_000, 7001)]


def stream_of(key: int, prg: str = "aes-128-ctr") -> Stream:
    return Stream(prg, key.to_bytes(4, "little") * (KEY_BYTES[prg] // 4))


def naive_support(stream: Stream, size: int, k: int) -> list[int]:
    """Straight from the description, in whole numbers and sorted at the end."""
    content = np.zeros(64 + 8 * k, np.uint8)
    keystream(stream, content)
    words = content.view("<u8").tolist()
    turn, picked = words[0] * size >> 64, []
    for stratum in range(k):
        start, stop = stratum * size // k, (stratum + 1) * size // k
        place = start + int((words[8 + stratum] >> 11) / 2**53 * (stop - start))
        assert start <= place < stop
        picked.append((place + turn) % size)
    return sorted(picked)


def coordinates(
    support: RandomK, element: int = 0, count: int | None = None, dtype: str = "uint32"
) -> list[int]:
    out = np.zeros(support.k - element if count is None else count, dtype)
    support.indices(out, element=element)
    return out.tolist()


@pytest.mark.parametrize(("size", "k"), SIZES)
def test_it_is_the_naive_draw(size: int, k: int) -> None:
    for key in range(6):
        support = RandomK(stream_of(key), size, k)
        want = naive_support(stream_of(key), size, k)
        assert coordinates(support) == want
        assert len(set(want)) == k
        for element in (0, k // 3, max(0, k - 1), k):
            assert coordinates(support, element, (k - element) // 2) == want[element:][: (k - element) // 2]


@pytest.mark.long
def test_other_ciphers_and_longer_vectors() -> None:
    stream = stream_of(3, "chacha20")
    assert coordinates(RandomK(stream, 1000, 300)) == naive_support(stream, 1000, 300)
    size = (1 << 40) + 12345
    assert coordinates(RandomK(stream_of(3), size, 999), dtype="uint64") == naive_support(
        stream_of(3), size, 999
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.floats(0, 1), st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1))
def test_any_part_is_computed_alone(size: int, part: float, key: int, a: float, b: float) -> None:
    k = int(part * size)
    support = RandomK(stream_of(key), size, k)
    start, stop = sorted((round(a * size), round(b * size)))
    x = np.arange(size, dtype=np.float32)
    want = [i for i in naive_support(stream_of(key), size, k) if start <= i < stop]
    first, last = support.elements(start, stop)
    assert coordinates(support, first, last - first) == want
    found = np.zeros(len(want), np.float32)
    support.gather(x[start:stop], found, first=start)
    assert found.tolist() == want
    back = np.ones(stop - start, np.float32)
    support.scatter_add(back, found, first=start, weight=2.0)
    expected = np.ones(size)
    expected[want] += 2 * x[want]
    assert back.tolist() == expected[start:stop].tolist()


@pytest.mark.covering(0)
@pytest.mark.parametrize(("size", "k"), [(7, 3), (10, 4), (9, 1)])
def test_each_coordinate_comes_with_probability_k_of_d(size: int, k: int) -> None:
    turns = 2000
    seen = np.zeros(size)
    for key in range(turns):
        support = np.zeros(k, np.uint32)
        RandomK(stream_of(key), size, k).indices(support)
        seen[support] += 1
    chance = k / size
    assert np.abs(seen / turns - chance).max() < 5 * np.sqrt(chance * (1 - chance) / turns)


def test_the_estimate_is_unbiased_with_the_error_of_random_k() -> None:
    x, turns = np.random.default_rng(0).standard_normal(103).astype(np.float32), 1500
    mean, error = np.zeros(103), 0.0
    for key in range(turns):
        support, estimate = RandomK(stream_of(key), 103, 10), np.zeros(103, np.float32)
        support.gather(x, values := np.zeros(10, np.float32))
        support.scatter_add(estimate, values, weight=support.factor)
        mean += estimate / turns
        error += float(((estimate - x) ** 2).sum()) / turns
    assert np.abs(mean - x).max() < 5 * np.abs(x).max() * np.sqrt(9.3 / turns)
    assert error == pytest.approx(9.3 * float((x**2).sum()), rel=0.05)


def test_bad_arguments() -> None:
    stream = stream_of(0)
    for size, k in ((3, 4), (3, -1), (1 << 49, 1), (1 << 40, 1 << 31)):
        with pytest.raises(ValueError, match=f"a support of {k} of {size} coordinates"):
            RandomK(stream, size, k)
    support, x = RandomK(stream, 100, 10), np.ones(100, np.float32)
    with pytest.raises(ValueError, match="elements 5 to 11 of a support of 10"):
        support.indices(np.zeros(6, np.uint32), element=5)
    with pytest.raises(TypeError, match="coordinates are uint32 or uint64, not int32"):
        support.indices(np.zeros(6, np.int32))
    with pytest.raises(ValueError, match="do not fit uint32"):
        RandomK(stream, 1 << 33, 10).indices(np.zeros(6, np.uint32))
    with pytest.raises(ValueError, match="coordinates 1 to 101 of a vector of 100"):
        support.gather(x, np.zeros(10, np.float32), first=1)
    with pytest.raises(ValueError, match="9 values for 10 elements of the support"):
        support.gather(x, np.zeros(9, np.float32))
    with pytest.raises(TypeError, match="values are float64, the vector is float32"):
        support.scatter_add(x, np.zeros(10))
    assert (x == 1).all()
