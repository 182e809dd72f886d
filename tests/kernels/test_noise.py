"""Noise is the exact distribution, sample by sample a function of key and number, on every path."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from silofl_kernels import (
    KEY_BYTES,
    LEAST_VARIANCE,
    MOST_VARIANCE,
    NOISE_ERROR,
    REACH,
    NoiseTable,
    Stream,
    add_noise,
    discrete_gaussian,
    draw_noise,
    keystream,
    skellam,
)
from tests.campaigns import mostly_long

MAKERS = [discrete_gaussian, skellam]
VARIANCES = [0.25, 1.0, 16.0, 1e4, 1e6, 1e8]
SAMPLES = 2_000_000
FULL = 1 << 110

Make = Callable[[float], NoiseTable]
each_maker = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)


def stream_of(name: str, prg: str = "aes-128-ctr") -> Stream:
    return Stream(prg, name.encode().ljust(KEY_BYTES[prg], b"."))


def samples(table: NoiseTable, name: str, count: int = SAMPLES) -> np.ndarray:
    out = np.zeros(count, np.int32)
    draw_noise(out, table, stream_of(name))
    return out


def naive_samples(table: NoiseTable, stream: Stream, position: int, count: int) -> list[int]:
    """Sample by sample from the bytes of the stream, in Python's integers."""
    tiles = range(position // 512, (position + count) // 512 + 1)
    raw = np.zeros(8192 * len(tiles), np.uint8)
    keystream(stream, raw, position=8192 * tiles[0])
    words = [int(word) for word in raw.view("<u8")]
    limits, others = table.limits, table.others.tolist()
    out = []
    for i in range(position, position + count):
        place = (i // 512 - tiles[0]) * 1024 + i % 512
        pick, head, end = words[place], (words[place] >> 48) % 2**15, (words[place] >> 17) % 2**31
        chance = head << 95 | words[place + 512] << 31 | end
        cell = pick % len(limits)
        magnitude = cell if chance < limits[cell] else others[cell]
        out.append(-magnitude if pick >> 63 else magnitude)
    return out


def implied(table: NoiseTable) -> list[int]:
    """What |x| = 0, 1, ... weigh by the table, in parts of K 2^110."""
    weights = [0] * len(table.limits)
    for cell, (limit, other) in enumerate(zip(table.limits, table.others.tolist(), strict=True)):
        weights[cell] += limit
        weights[other] += FULL - limit
    return weights


def exact(table: NoiseTable, k: int) -> mpmath.mpf:
    """P(|x| = k): the Gaussian by Poisson's summation formula, Skellam by the integral of DLMF 10.32.3."""
    variance, sides = mpmath.mpf(table.variance), 2 if k else 1
    if table.name == "discrete-gaussian":
        waves = 1 + 2 * sum(mpmath.exp(-2 * mpmath.pi**2 * variance * j * j) for j in range(1, 80))
        one_side = mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * variance)) / mpmath.sqrt(2 * mpmath.pi * variance)
        return sides * one_side / waves
    points = 4 * table.largest + 101  # the trapezoid rule errs by P(points - k) and less
    total = mpmath.mpf(1)
    for j in range(1, points // 2 + 1):
        angle = 2 * mpmath.pi * j / points
        height = mpmath.exp(variance * (mpmath.cos(angle) - 1))
        if height < mpmath.mpf(10) ** -110:
            break
        total += 2 * height * mpmath.cos(k * angle)
    return sides * total / points


def masses(table: NoiseTable) -> np.ndarray:
    """P(x) for x = -largest ... largest, in float64."""
    k = np.arange(table.largest + 1, dtype=float)
    if table.name == "skellam":
        half = special.ive(k, table.variance)
    else:
        half = np.exp(-k * k / (2 * table.variance))
        half /= half[0] + 2 * half[1:].sum()
    return np.concatenate([half[:0:-1], half])


def chi_square(values: np.ndarray, probabilities: np.ndarray, largest: int) -> float:
    """The p-value of `values` in bins of neighbours that each expect 2000 or more, a few hundred at most."""
    expected = probabilities * values.size
    share = max(2000.0, values.size / 300)
    group = np.minimum(np.cumsum(expected) // share, values.size // share - 1).astype(int)
    counted = np.bincount(values + largest, minlength=expected.size)
    kept = [np.bincount(group, weights) for weights in (counted, expected)]
    seen, wanted = (totals[kept[1] > 0] for totals in kept)
    wanted = wanted * seen.sum() / wanted.sum()
    return float(stats.chisquare(seen, wanted).pvalue)


@pytest.mark.covering(1)
@each_maker
@pytest.mark.parametrize("variance", VARIANCES)
def test_samples_have_the_exact_distribution(make: Make, variance: float) -> None:
    table = make(variance)
    values, probabilities = samples(table, f"chi {variance:g}"), masses(table)
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert chi_square(values, probabilities, table.largest) > 1e-3
    x = np.arange(-table.largest, table.largest + 1.0)
    for power in (1, 2, 3, 4):
        moment, spread = (float((x ** (power * e) * probabilities).sum()) for e in (1, 2))
        error = np.sqrt((spread - moment**2) / values.size)
        assert abs((values.astype(float) ** power).mean() - moment) < 4.5 * error


@pytest.mark.covering(0)
@each_maker
@pytest.mark.parametrize("variance", mostly_long([LEAST_VARIANCE, 0.25, 0.7, 1.0, 16.0, 1e4], 0, 1, 3, 4))
def test_a_table_is_as_near_as_promised(make: Make, variance: float) -> None:
    table = make(variance)
    weights = implied(table)
    assert sum(weights) == len(weights) * FULL
    assert not any(weights[table.largest + 1 :])
    with mpmath.workdps(120):
        true = [exact(table, k) for k in range(table.largest + 2)]
        apart = [
            abs(mpmath.mpf(w) / (len(weights) * FULL) - p) for w, p in zip(weights, true[:-1], strict=False)
        ]
        beyond = 1 - mpmath.fsum(true[:-1])
        assert 0 < beyond < mpmath.mpf(2) ** -120
        assert max(*apart, true[-1]) < NOISE_ERROR / len(weights)
        assert (mpmath.fsum(apart) + beyond) / 2 < NOISE_ERROR
        assert variance < 1 or table.largest >= REACH * variance**0.5


@pytest.mark.covering(0)
@each_maker
@pytest.mark.parametrize("variance", [1e6, MOST_VARIANCE])
def test_large_tables_are_as_near(make: Make, variance: float) -> None:
    table = make(variance)
    weights = implied(table)
    assert sum(weights) == len(weights) * FULL
    deviation = int(variance**0.5)
    assert table.largest >= REACH * deviation
    with mpmath.workdps(120):
        for k in (0, 1, 2, deviation, 3 * deviation, 6 * deviation, 12 * deviation, table.largest):
            part = mpmath.mpf(weights[k]) / (len(weights) * FULL)
            assert abs(part - exact(table, k)) < NOISE_ERROR / len(weights)
        assert exact(table, table.largest + 1) < NOISE_ERROR / len(weights)


@each_maker
def test_naive_samples_are_the_same(make: Make, few_prg: str) -> None:
    stream = stream_of("naive", few_prg)
    for variance, position, count in ((0.25, 0, 600), (16.0, 7, 0), (16.0, 511, 1), (1e4, 10**6 + 3, 1100)):
        table, out = make(variance), np.full(count + 2, 77, np.int32)
        draw_noise(out[1:-1], table, stream, position=position)
        assert out[1:-1].tolist() == naive_samples(table, stream, position, count)
        assert out[0] == out[-1] == 77


@each_maker
def test_draws_that_the_head_of_a_threshold_does_not_settle(make: Make) -> None:
    table, stream, tiles = make(1e6), stream_of("settle"), 1000
    raw, out = np.zeros(8192 * tiles, np.uint8), np.zeros(512 * tiles, np.int32)
    keystream(stream, raw)
    draw_noise(out, table, stream)
    words = raw.view("<u8").reshape(tiles, 2, 512)
    pick, tail = words[:, 0].ravel(), words[:, 1].ravel()
    cell = (pick % np.uint64(table.cells.size)).astype(int)
    head = pick >> np.uint64(48) & np.uint64(2**15 - 1)
    first, limit = (table.cells >> 17)[cell], table.tails[cell]
    assert 3 < (head == first).sum() < 50
    kept = (head < first) | (head == first) & (tail < limit)  # the last bits never tell in so few draws
    magnitude = np.where(kept, cell, table.others[cell])
    assert (out == np.where(pick >> np.uint64(63), -magnitude, magnitude)).all()


def test_draws_that_the_tail_of_a_threshold_does_not_settle_either() -> None:
    """Limits of a table are made to begin with the bits of the draws: the last bits of both decide then."""
    stream, raw = stream_of("ends"), np.zeros(8192, np.uint8)
    keystream(stream, raw)
    pick, tail = raw.view("<u8").reshape(2, 512)
    last = (pick >> np.uint64(17)).astype(np.uint32) & np.uint32(2**31 - 1)
    table = discrete_gaussian(1e8)
    own = (pick % np.uint64(table.cells.size)).astype(int)
    where = np.flatnonzero(np.bincount(own, minlength=table.cells.size)[own] == 1)
    for more, kept in ((0, False), (1, True)):
        cells, tails, ends = table.cells.copy(), table.tails.copy(), table.ends.copy()
        head = (pick >> np.uint64(48) & np.uint64(2**15 - 1)).astype(np.uint32)
        cells[own[where]] = head[where] << np.uint32(17) | table.others[own[where]]
        tails[own[where]], ends[own[where]] = tail[where], last[where] + np.uint32(more)
        made, out = dataclasses.replace(table, cells=cells, tails=tails, ends=ends), np.zeros(512, np.int32)
        draw_noise(out, made, stream)
        assert out.tolist() == naive_samples(made, stream, 0, 512)
        expected = own if kept else made.others[own]
        assert (np.abs(out) == expected)[where].all()
        assert where.size > 400


@pytest.mark.parametrize("bits", mostly_long([8, 32], 1))
def test_words_wrap_around(bits: int) -> None:
    check_wrapping(bits, "aes-128-ctr")


def test_words_wrap_around_on_every_path(few_prg: str) -> None:
    check_wrapping(16, few_prg)


def check_wrapping(bits: int, prg: str) -> None:
    table, stream = skellam(1e6), stream_of("wrap", prg)
    words = np.arange(1300, dtype=f"uint{bits}")
    words[::2] = np.iinfo(words.dtype).max
    want = [
        (int(word) + noise) % (1 << bits)
        for word, noise in zip(words, naive_samples(table, stream, 5, words.size), strict=True)
    ]
    add_noise(words, table, stream, position=5)
    assert words.tolist() == want


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 40), st.lists(st.integers(0, 5000), max_size=5))
def test_any_slices_are_the_whole(position: int, cuts: list[int]) -> None:
    table, stream = discrete_gaussian(50.0), stream_of("slices")
    whole, pieces = np.zeros(5000, np.uint16), np.zeros(5000, np.uint16)
    add_noise(whole, table, stream, position=position)
    for a, b in pairwise([0, *sorted(cuts), 5000]):
        add_noise(pieces[a:b], table, stream, position=position + a)
    assert whole.tobytes() == pieces.tobytes()


@each_maker
def test_keys_and_positions_are_independent(make: Make) -> None:
    table = make(16.0)
    one, other = samples(table, "one"), samples(table, "other")
    for left, right in ((one, other), (one[1:], one[:-1]), (np.abs(one[1:]), np.abs(one[:-1]))):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / SAMPLES**0.5


@each_maker
def test_shares_add_up_to_the_promised_variance(make: Make) -> None:
    silos, variance = 7, 100.0
    total = sum(samples(make(variance / silos), f"silo {k}") for k in range(silos))
    assert total.var() == pytest.approx(variance, rel=4.5 * (2 / SAMPLES) ** 0.5)
    whole = make(variance)
    assert chi_square(total, masses(whole), whole.largest) > 1e-3


def test_a_table_is_frozen_cached_and_short_to_print() -> None:
    table = skellam(16.0)
    assert table is skellam(16.0)
    assert repr(table) == f"NoiseTable(name='skellam', variance=16.0, largest={table.largest})"
    with pytest.raises(ValueError):
        table.cells[0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.variance = 1.0  # type: ignore[misc]


@each_maker
@pytest.mark.parametrize("variance", [0.0, -1.0, 0.009, 1.1e8, float("nan"), float("inf")])
def test_variances_without_a_table(make: Make, variance: float) -> None:
    with pytest.raises(ValueError, match=r"variance of 0\.01 to 1e\+08, not"):
        make(variance)


def test_bad_arguments_write_nothing() -> None:
    table, stream = skellam(4.0), stream_of("bad")
    words, out = np.full(8, 3, np.uint16), np.full(8, 3, np.int32)
    frozen = words.copy()
    frozen.flags.writeable = False
    for bad in (words[::2], frozen, words.reshape(2, 4), words.astype(np.int16), words.astype(np.uint64)):
        with pytest.raises((ValueError, TypeError)):
            add_noise(bad, table, stream)
    for bad in (out[::2], out.astype(np.int64), out.view(np.uint32), out.reshape(2, 4)):
        with pytest.raises((ValueError, TypeError)):
            draw_noise(bad, table, stream)
    with pytest.raises(ValueError, match="not all within"):
        add_noise(words, table, stream, position=-1)
    with pytest.raises(ValueError, match="not all within"):
        add_noise(words, table, stream_of("bad", "chacha20"), position=(1 << 34) - 7)
    assert (words == 3).all()
    assert (out == 3).all()


IN_PYTHON = """
import numpy as np
from silofl_kernels import Stream, add_noise, draw_noise, skellam
words, out = np.zeros(20, np.uint16), np.zeros(20, np.int32)
stream = Stream("chacha20", bytes(32))
add_noise(words, skellam(9.0), stream, position=3)
draw_noise(out, skellam(9.0), stream, position=3)
print(words.tolist(), out.tolist())
"""


@pytest.mark.long
def test_without_compilation_the_samples_are_the_same() -> None:
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    told = subprocess.run(
        [sys.executable, "-c", IN_PYTHON], env=environment, capture_output=True, text=True, check=True
    )
    want = naive_samples(skellam(9.0), Stream("chacha20", bytes(32)), 3, 20)
    assert told.stdout.strip() == f"{[x % 65536 for x in want]} {want}"
