"""Noise around centres of past noise is the exact distribution, a function of key, number and past alone."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import stats

from silofl_kernels import (
    CENTRED_VARIANCE,
    FRACTION_BITS,
    NOISE_ERROR,
    Stream,
    correlate_noise,
    discrete_gaussian,
    draw_noise,
    keystream,
)
from silofl_kernels.centred_table import CELLS, LOWEST, centred_tables
from silofl_kernels.noise_table import END_BITS, OTHER_BITS

FRACTIONS = 1 << FRACTION_BITS
FULL = 1 << 110


def stream_of(name: str) -> Stream:
    return Stream("aes-128-ctr", name.encode().ljust(16, b"."))


def rows_of_tables() -> list[list[tuple[int, int]]]:
    """Limit and other cell of every cell of every fraction."""
    tables = centred_tables()
    heads, others = tables.cells >> np.uint32(OTHER_BITS), tables.cells & np.uint32((1 << OTHER_BITS) - 1)
    parts = zip(heads.tolist(), tables.tails.tolist(), tables.ends.tolist(), strict=True)
    limits = [(head << 64 | tail) << END_BITS | end for head, tail, end in parts]
    entries = list(zip(limits, others.tolist(), strict=True))
    return [entries[CELLS * at : CELLS * (at + 1)] for at in range(FRACTIONS)]


def exact(fraction: mpmath.mpf, variance: float) -> list[mpmath.mpf]:
    """P(m) of the discrete Gaussian around a fraction, m = LOWEST, ...: by adding up all that matters."""
    weight = lambda m: mpmath.exp(-((m - fraction) ** 2) / (2 * mpmath.mpf(variance)))  # noqa: E731
    total = mpmath.fsum(weight(m) for m in range(-120, 121))
    return [weight(m) / total for m in range(LOWEST, LOWEST + CELLS)]


@pytest.mark.long
def test_every_fraction_s_table_is_as_near_as_promised() -> None:
    with mpmath.workdps(120):
        for number, entries in enumerate(rows_of_tables()):
            weights = [0] * CELLS
            for cell, (limit, other) in enumerate(entries):
                weights[cell] += limit
                weights[other] += FULL - limit
            true = exact(mpmath.mpf(number) / FRACTIONS, CENTRED_VARIANCE)
            assert 1 - mpmath.fsum(true) < mpmath.mpf(2) ** -120
            apart = [abs(mpmath.mpf(w) / (CELLS * FULL) - p) for w, p in zip(weights, true, strict=True)]
            assert max(apart) < NOISE_ERROR / CELLS


def test_two_draws_are_one_around_the_centre_as_nearly_as_promised() -> None:
    """By enumeration, for the least variance and centres all over a unit."""
    variance = 16.0
    with mpmath.workdps(60):
        first = {
            z: mpmath.exp(-(mpmath.mpf(z) ** 2) / (2 * (variance - CENTRED_VARIANCE))) for z in range(-90, 91)
        }
        whole = mpmath.fsum(first.values())
        for number in (0, 1, 19, 32, 63):
            fraction = mpmath.mpf(number) / FRACTIONS
            second = {m: mpmath.exp(-((m - fraction) ** 2) / (2 * CENTRED_VARIANCE)) for m in range(-70, 71)}
            rest = mpmath.fsum(second.values())
            both = [
                mpmath.fsum(first[z] * second[m - z] for z in first if m - z in second) / (whole * rest)
                for m in range(-20, 21)
            ]
            one = exact(fraction, variance)[-20 - LOWEST : 21 - LOWEST]
            assert max(abs(two / p - 1) for two, p in zip(both, one, strict=True)) < 1e-28


def naive(past: np.ndarray, coefficients: list[int], stream: Stream, position: int, count: int) -> list[int]:
    """Sample by sample from the bytes of the stream, in Python's integers."""
    tables, words = rows_of_tables(), np.zeros(8192 * 4, np.uint8)
    keystream(stream, words, position=0)
    raw = [int(word) for word in words.view("<u8")]
    out = []
    for i in range(position, position + count):
        place = i // 512 * 1024 + i % 512
        pick = raw[place]
        chance = (pick >> 48) % 2**15 << 95 | raw[place + 512] << 31 | (pick >> 17) % 2**31
        centre = -sum(factor * int(row[i]) for factor, row in zip(coefficients, past, strict=True))
        cell, entries = pick % CELLS, tables[centre % FRACTIONS]
        limit, other = entries[cell]
        out.append(centre // FRACTIONS + (cell if chance < limit else other) + LOWEST)
    return out


@pytest.mark.parametrize(("position", "count"), [(0, 700), (500, 1300), (1023, 5)])
def test_samples_are_those_of_python_s_integers(position: int, count: int) -> None:
    past = np.random.default_rng(1).integers(-40_000, 40_000, (3, 2000)).astype(np.int32)
    before = np.arange(count, dtype=np.int32)
    out, kept = before.copy(), past.copy()
    coefficients = [49, -33, 64]
    correlate_noise(out, past, np.array(coefficients), stream_of("naive"), position=position)
    assert (out - before).tolist() == naive(past, coefficients, stream_of("naive"), position, count)
    assert np.array_equal(past, kept)


@pytest.mark.parametrize("centre", [0, 1, 32, 63, -1, 64 * 7 + 21])
def test_samples_have_the_distribution_around_the_centre(centre: int) -> None:
    variance, count = 30.0, 400_000
    out = np.zeros(count, np.int32)
    draw_noise(out, discrete_gaussian(variance - CENTRED_VARIANCE), stream_of(f"wide {centre}"))
    past = np.full((1, count), -centre, np.int32)
    correlate_noise(out, past, np.array([1]), stream_of(f"narrow {centre}"))
    values = np.arange(-40, 60)
    masses = np.exp(-((values - centre / 64) ** 2) / (2 * variance))
    kept = masses / masses.sum() * count > 50
    seen = np.array([(out == value).sum() for value in values[kept]])
    expected = masses[kept] / masses[kept].sum() * seen.sum()
    assert stats.chisquare(seen, expected).pvalue > 1e-3
    assert abs(out.mean() - centre / 64) < 4.5 * np.sqrt(variance / count)


def test_a_process_has_the_inverse_matrix_s_covariance() -> None:
    """Noise of a band of 3 over 7 rounds: z = C n is white, and n has the covariance C^-1 C^-T."""
    coefficients, variance, count, rounds = np.array([49, 20]), 25.0, 300_000, 7
    past, rows = np.zeros((2, count), np.int32), []
    for number in range(rounds):
        now = np.zeros(count, np.int32)
        draw_noise(now, discrete_gaussian(variance - CENTRED_VARIANCE), stream_of(f"w{number}"))
        correlate_noise(now, past, coefficients, stream_of(f"n{number}"))
        past = np.stack([now, past[0]])
        rows.append(now.astype(float))
    matrix = np.eye(rounds) + 49 / 64 * np.eye(rounds, k=-1) + 20 / 64 * np.eye(rounds, k=-2)
    noise, inverse = np.array(rows), np.linalg.inv(matrix)
    wanted = variance * inverse @ inverse.T
    spread = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / count)
    assert np.max(np.abs(noise @ noise.T / count - wanted) / spread) < 4.5
    white = matrix @ noise
    assert np.max(np.abs(white @ white.T / count - variance * np.eye(rounds))) < 4.5 * variance * np.sqrt(
        2 / count
    )
    assert np.array_equal(white[1] * 64 % 64, rows[0] * 49 % 64), "white noise lies beside the whole numbers"


def test_bad_arguments_are_refused() -> None:
    out, past, one = np.zeros(4, np.int32), np.zeros((1, 4), np.int32), np.array([1])
    for bad in (
        lambda: correlate_noise(out, past, one, stream_of("x"), position=1),
        lambda: correlate_noise(out, past, np.array([1, 2]), stream_of("x")),
        lambda: correlate_noise(out, past, np.array([1 << 21]), stream_of("x")),
        lambda: correlate_noise(out, past[0], one, stream_of("x")),
    ):
        with pytest.raises(ValueError, match=r"past noise|coefficients"):
            bad()
    with pytest.raises(TypeError, match="int32"):
        correlate_noise(out.astype(np.int64), past, one, stream_of("x"))  # type: ignore[arg-type]
