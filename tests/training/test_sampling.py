"""Poisson sampling: probabilities, independence, repeatability."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from silofl.errors import ConfigError
from silofl.training import sampling
from silofl.training.sampling import PoissonSampler
from silofl_kernels.streams import Prg, Stream, keystream

ALPHA = 1e-6
"""Streams are fixed, so that a test that passes once passes always."""


def sampler(records: int, rate: float, key: int = 1) -> PoissonSampler:
    return PoissonSampler(Stream("aes-128-ctr", key.to_bytes(16, "little")), records, rate)


def table(records: int, rate: float, steps: int) -> NDArray[np.bool_]:
    """Who took part, (steps, records)."""
    out = np.zeros((steps, records), bool)
    one = sampler(records, rate)
    for step in range(steps):
        out[step, one.draw(step)] = True
    return out


@pytest.mark.covering(0)
@pytest.mark.parametrize("rate", [0.003, 0.1, 0.5, 0.97])
def test_counts_are_binomial_over_records_and_over_steps(rate: float) -> None:
    chosen = table(400, rate, 2500)
    for counts, trials in ((chosen.sum(0), 2500), (chosen.sum(1), 400)):
        z2 = (counts - trials * rate) ** 2 / (trials * rate * (1 - rate))
        assert stats.chi2.sf(z2.sum(), len(counts)) > ALPHA
        assert stats.chi2.cdf(z2.sum(), len(counts)) > ALPHA
    assert stats.binomtest(int(chosen.sum()), chosen.size, rate).pvalue > ALPHA


@pytest.mark.covering(0)
@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1), (0, 7), (3, 0)])
def test_records_and_steps_are_independent(shift: tuple[int, int]) -> None:
    rate, chosen = 0.3, table(400, 0.3, 2500)
    down, right = shift
    pairs = chosen[down:, right:] & chosen[: 2500 - down, : 400 - right]
    mean = pairs.size * rate**2
    # A pair shares a record with two others at most, which widens the spread of their sum.
    variance = pairs.size * (rate**2 * (1 - rate**2) + 2 * (rate**3 - rate**4))
    assert abs(pairs.sum() - mean) < 5 * variance**0.5


def test_a_step_is_a_function_of_key_and_step() -> None:
    one, again, other = sampler(500, 0.2), sampler(500, 0.2), sampler(500, 0.2, key=2)
    forwards = [one.draw(step) for step in range(6)]
    backwards = [again.draw(step) for step in reversed(range(6))][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(forwards[0], forwards[1])
    assert not np.array_equal(forwards[0], other.draw(0))


@pytest.mark.long
@given(
    st.integers(0, 300), st.floats(0, 1, exclude_min=True), st.integers(0, 10**6),
    st.sampled_from(["aes-128-ctr", "chacha20"]), st.sampled_from([7, 1 << 20]),
)  # fmt: skip
def test_words_of_the_stream_below_the_rate(
    records: int, rate: float, step: int, prg: Prg, piece: int
) -> None:
    stream = Stream(prg, bytes(16 if prg == "aes-128-ctr" else 32))
    raw = np.empty(8 * records, np.uint8)
    keystream(stream, raw, position=8 * step * records)
    words = [int.from_bytes(raw[8 * i : 8 * i + 8].tobytes(), "little") for i in range(records)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_PIECE", piece)
        drawn = PoissonSampler(stream, records, rate).draw(step)
    assert drawn.dtype == np.int64
    assert drawn.tolist() == [i for i, word in enumerate(words) if word < rate * 2**64]


def test_everybody_nobody_and_empty() -> None:
    assert sampler(9, 1.0).draw(3).tolist() == list(range(9))
    assert sampler(9, 2.0**-60).draw(3).tolist() == []
    assert sampler(0, 0.5).draw(3).shape == (0,)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"privacy\.sample_rate = .* no probability"):
        sampler(9, rate)
