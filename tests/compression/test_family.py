"""Every codec is what it states of itself: linear, unbiased, and of the length that it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.compression.base import Codec, Draw
from silofl.compression.registry import CODECS
from tests.campaigns import mostly_long
from tests.compression.naive import key_of, support

KEYS: dict[str, dict[str, Any]] = {"random_k": {"ratio": 0.3}}
EVERY = pytest.mark.parametrize("name", sorted(CODECS))
DRAWS = 10_000


def made(name: str) -> Codec:
    return CODECS[name](**KEYS.get(name, {}))


def drawn(number: int, *, keeps_error: bool = False) -> Draw:
    return Draw(key_of(7, number), keeps_error)


@EVERY
@pytest.mark.parametrize("length", [0, 1, 2, 65, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_sent_is_as_long_as_it_says_and_changes_nothing(name: str, length: int, dtype: Any) -> None:
    codec, values = made(name), np.random.default_rng(length).standard_normal(length).astype(dtype)
    before = values.copy()
    sent = codec.encode(values, drawn(1))
    assert sent.shape == (codec.size(length),)
    assert sent.dtype == dtype
    back = codec.decode(sent.copy(), drawn(1), length)
    assert back.shape == (length,)
    assert back.dtype == dtype
    assert (values == before).all()


@EVERY
def test_linear_ones_add_up(name: str) -> None:
    codec, rng = made(name), np.random.default_rng(0)
    if not codec.linear:
        pytest.skip("not linear")
    one, other = rng.standard_normal((2, 1000))
    sent = codec.encode(one, drawn(2)) + codec.encode(other, drawn(2))
    np.testing.assert_allclose(sent, codec.encode(one + other, drawn(2)), rtol=1e-12, atol=1e-12)
    parts = [codec.decode(codec.encode(x, drawn(2)), drawn(2), 1000) for x in (one, other)]
    np.testing.assert_allclose(codec.decode(sent, drawn(2), 1000), sum(parts), rtol=1e-12, atol=1e-12)


@EVERY
def test_unbiased_ones_are_right_on_average(name: str) -> None:
    """Within four standard errors over 10,000 draws, in every coordinate."""
    codec, values = made(name), np.random.default_rng(1).standard_normal(30)
    if not codec.unbiased:
        pytest.skip("not unbiased")
    found = np.array([codec.decode(codec.encode(values, drawn(k)), drawn(k), 30) for k in range(DRAWS)])
    errors = found.std(axis=0) / np.sqrt(DRAWS)
    assert (np.abs(found.mean(axis=0) - values) <= 4 * errors + 1e-12).all()


@EVERY
def test_error_feedback_loses_less_than_all(name: str) -> None:
    """A codec that takes away more than it leaves would have residuals grow for ever."""
    codec, values = made(name), np.random.default_rng(2).standard_normal(1000)
    draw = drawn(3, keeps_error=True)
    lost = values - codec.decode(codec.encode(values, draw), draw, 1000)
    assert np.linalg.norm(lost) < np.linalg.norm(values)


@pytest.mark.parametrize("ratio", mostly_long([0.01, 0.3, 0.5, 0.999], 1))
@pytest.mark.parametrize("length", [1, 7, 1000])
def test_random_k_draws_one_place_of_each_stratum(ratio: float, length: int) -> None:
    codec, draw = CODECS["random_k"](ratio=ratio), drawn(5)
    places, lengths = support(length, ratio, draw.key)
    values = np.arange(1.0, length + 1)
    sent = codec.encode(values, draw)
    assert sent.tolist() == values[places].tolist()
    back = codec.decode(sent, draw, length)
    expected = np.zeros(length)
    expected[places] = values[places] * lengths
    assert back.tolist() == expected.tolist()


def test_a_draw_does_not_print_its_key() -> None:
    assert "key" not in repr(drawn(1))
