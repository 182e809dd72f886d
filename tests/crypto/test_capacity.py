"""Nothing that `check_capacity` admits wraps; it refuses with the numbers; limbs are exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silofl.crypto.capacity import (
    check_capacity,
    count_limbs,
    decode_weight,
    encode_weight,
    weight_limbs,
    word_limit,
)
from silofl.errors import ConfigError

RINGS = st.sampled_from([8, 16, 32])


@settings(max_examples=300, deadline=None)
@given(RINGS, st.integers(1, 100), st.booleans(), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_the_worst_sum_does_not_wrap(bits, silos, stochastic, value_range, seed):
    if bits == 8 and stochastic:
        silos = min(silos, 60)
    scale = check_capacity(bits, value_range, silos, stochastic=stochastic)
    rng = np.random.default_rng(seed)
    counts = np.exp(rng.uniform(0, 16, silos)).astype(np.int64)
    weights = counts / counts.sum()
    limits = [word_limit(p, value_range, scale, stochastic=stochastic) for p in weights]
    extreme = (np.float32(scale) * weights.astype(np.float32)) * np.float32(value_range)
    words = np.floor(extreme.astype(np.float64) + (1 if stochastic else 0.5)).astype(np.int64)
    assert int(words.sum()) <= 2 ** (bits - 1) - 1
    assert int(np.minimum(words, limits).sum()) <= 2 ** (bits - 1) - 1
    assert sum(limits) <= 2 ** (bits - 1) - 1  # of clipped values, too


def test_the_scale_uses_what_the_ring_has():
    assert check_capacity(16, 1.0, 4) == pytest.approx(32767 - 2, rel=1e-6)
    assert check_capacity(16, 1.0, 4, stochastic=True) == pytest.approx(32767 - 4, rel=1e-6)
    assert check_capacity(8, 0.5, 10) == pytest.approx((127 - 5) / 0.5, rel=1e-6)
    assert check_capacity(32, 2.0, 3, total_weight=3.0) == pytest.approx((2**31 - 2.5) / 6, rel=1e-6)


@pytest.mark.parametrize(
    ("bits", "silos", "stochastic", "says"),
    [
        (8, 253, False, r"253 silos do not fit an 8-bit ring.*126.5 of 127 levels; use secure.bits = 16"),
        (8, 127, True, "127 of 127 levels; use secure.bits = 16"),
        (16, 40000, True, "use secure.bits = 32"),
        (32, 2**32, False, "use fewer silos"),
    ],
)
def test_impossible_combinations_are_refused_with_the_numbers(bits, silos, stochastic, says):
    with pytest.raises(ConfigError, match=says):
        check_capacity(bits, 1.0, silos, stochastic=stochastic)


@pytest.mark.parametrize(
    "arguments",
    [(12, 1.0, 3), (16, 0.0, 3), (16, -1.0, 3), (16, float("nan"), 3), (16, float("inf"), 3), (16, 1.0, 0)],
)
def test_improper_numbers_are_refused(arguments):
    with pytest.raises(ConfigError):
        check_capacity(*arguments)


@pytest.mark.parametrize("value_range", [1e-30, 5e-324, 1e50])
def test_ranges_beyond_float32_are_refused(value_range):
    with pytest.raises(ConfigError, match="float32"):
        check_capacity(32, value_range, 3)


@settings(max_examples=60, deadline=None)
@given(RINGS, st.integers(1, 255), st.data())
def test_counts_add_up_exactly_in_every_ring(bits, silos, data):
    limbs = count_limbs(bits, silos)
    most = 2**limbs.width - 1
    assert most >= 10**7
    assert silos * most < 2**53
    counts = data.draw(st.lists(st.integers(0, most) | st.just(most), min_size=1, max_size=silos))
    sums = sum((limbs.encode(count) for count in counts), np.zeros(limbs.words, f"u{bits // 8}"))
    assert sums.dtype.itemsize * 8 == bits
    assert limbs.decode(sums) == sum(counts)


@settings(max_examples=300, deadline=None)
@given(RINGS, st.integers(1, 255), st.integers(0, 2**32 - 1))
def test_weights_add_up_to_forty_bits(bits, silos, seed):
    rng = np.random.default_rng(seed)
    counts = np.exp(rng.uniform(0, 16, silos)).astype(np.int64)
    weights = [int(count) / int(counts.sum()) for count in counts]
    alive = [p for p in weights if rng.random() < 0.7] or weights
    limbs = weight_limbs(bits, silos)
    sums = sum((encode_weight(p, limbs) for p in alive), np.zeros(limbs.words, f"u{bits // 8}"))
    assert abs(decode_weight(sums, limbs) - sum(alive)) <= 2.0**-40


def test_the_fewest_words():
    assert count_limbs(32, 4).words == 2
    assert count_limbs(16, 4).words == 4
    assert count_limbs(8, 4).words == 9
    assert weight_limbs(16, 4).words == 4


def test_what_does_not_fit_limbs_is_refused():
    limbs = count_limbs(16, 4)
    for number in (-1, 2**limbs.width):
        with pytest.raises(ConfigError):
            limbs.encode(number)
    with pytest.raises(ConfigError):
        count_limbs(8, 256)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError):
            encode_weight(weight, weight_limbs(16, 4))
    with pytest.raises(ValueError):
        limbs.decode(np.zeros(limbs.words + 1, np.uint16))
    with pytest.raises(ValueError):
        limbs.decode(np.zeros(limbs.words, np.uint32))
