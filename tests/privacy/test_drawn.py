"""What tables cost that are not quite what they are named after: nothing that grows with epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy import drawn
from silofl.privacy.accountant import epsilon, why_infinite
from silofl.privacy.calibration import noise_multiplier_for
from silofl.privacy.drawn import drawn_noise
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from silofl_kernels import REACH


def plan(dimensions: int, rounds: int, delta: float, **keys: object) -> Plan:
    settings = {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 1e-3} | keys
    config = PrivacyConfig(delta=delta, **settings)  # type: ignore[arg-type]
    return Plan(config, dimensions, 32, 8, 1e5, rounds, 1)


def of_a_run(of: Plan) -> tuple[float, float]:
    """Epsilon of a run, and of the continuous Gaussian of the same multiplier."""
    noise = of.noise_multiplier()
    release = of.of_sum(of.grid(noise), of.silos)
    same = Release("gaussian", release.noise_multiplier, 0.0, release.sample_rate, release.sampler)
    delta, rounds = of.config.delta, of.rounds
    return epsilon({release: rounds}, delta, "pld"), epsilon({same: rounds}, delta, "pld")


@pytest.mark.parametrize(
    ("dimensions", "rounds", "delta", "keys", "most"),
    [
        (10**6, 1000, 1e-5, {}, 1.001),
        (10**6, 1000, 1e-5, {"noise_multiplier": 0.5, "sample_rate": 0.05}, 1.001),  # epsilon 54
        (10**7, 1000, 1e-5, {"noise_multiplier": 0.6, "sample_rate": 0.01}, 1.001),
        (10**8, 1000, 1e-5, {"noise_multiplier": 0.5, "sample_rate": 0.05, "place": "central"}, 1.001),
        (10**9, 10**5, 1e-12, {}, 1.02),
        (10**9, 10**5, 1e-12, {"noise_multiplier": 0.5}, 1.01),
        (10**3, 10**5, 1e-12, {"sample_rate": 1.0}, 1.001),  # epsilon 52 000
    ],
)
def test_large_models_have_the_epsilon_of_exact_noise(
    dimensions: int, rounds: int, delta: float, keys: dict[str, object], most: float
) -> None:
    found, exact = of_a_run(plan(dimensions, rounds, delta, **keys))
    assert exact < found < most * exact


def probabilities(variance: float, reach: int) -> np.ndarray:
    half = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * variance))
    return half / half.sum()


def privacy(noise: np.ndarray, shift: int, eps: float, *, rate: float = 1.0, replaced: bool = False) -> float:
    """The least delta with which noise hides a shift at epsilon, or two opposite ones from each other."""
    padded = np.pad(noise, shift)
    base, there = padded, np.roll(padded, shift)
    other = np.roll(padded, -shift) if replaced else base
    one, two = ((1 - rate) * base + rate * moved for moved in (there, other))
    return float(np.maximum(one - math.exp(eps) * two, 0).sum())


@pytest.mark.parametrize("sources", [1, 2, 5])
@pytest.mark.parametrize("shift", [1, 3, 6])
@pytest.mark.parametrize(("rate", "replaced"), [(1.0, False), (0.1, False), (1.0, True), (0.1, True)])
def test_coarse_tables_stay_below_the_bound(
    monkeypatch: pytest.MonkeyPatch, sources: int, shift: int, rate: float, *, replaced: bool
) -> None:
    """Tables that err by 2^-31 at every value, as badly as they can, and noise whose tail they cut."""
    monkeypatch.setattr(drawn, "NOISE_ERROR", 2.0**-31)
    share, rng = 16.0, np.random.default_rng(sources)
    reach = int(REACH * math.sqrt(share))
    table = probabilities(share, reach)
    worst = table + rng.choice([-1, 1], table.size) * 2.0**-31 / (REACH * math.sqrt(share))
    worst = np.where(worst < 0, 0, worst)  # which cuts the tail
    worst /= worst.sum()
    noise, exact = worst, table
    for _ in range(sources - 1):
        noise, exact = np.convolve(noise, worst), np.convolve(exact, table)
    multiplier = math.sqrt(sources * share) / shift / (2 if replaced else 1)
    found = drawn_noise("discrete-gaussian", 1, multiplier, sources, share)
    for eps in (0.5, 2.0, 10.0, 30.0):
        for off in (1e-4, 1e-2, 1.0):
            told = privacy(noise, shift, eps + 2 * off, rate=rate, replaced=replaced)
            known = privacy(exact, shift, eps, rate=rate, replaced=replaced)
            assert told <= math.exp(off) * known + found.tail + found.ratio / off
    if replaced:
        return
    assert found.tail + found.ratio < (2e-4 if shift < 6 else 0.2)


def test_what_a_record_moves_far_is_counted() -> None:
    """On one coordinate of a million it may move as far as its norm, and there the tables end sooner."""
    found = [drawn_noise("discrete-gaussian", 10**6, z, 1, 100.0) for z in (1.0, 0.3, 0.2, 0.05)]
    for more, less in zip(found[1:], found[:-1], strict=True):
        assert more.tail + more.ratio > less.tail + less.ratio
    assert found[-1].tail == 0.5
    skellam = drawn_noise("skellam", 10**6, 1.0, 1, 100.0)
    assert skellam.tail > found[0].tail


@pytest.mark.parametrize("neighbours", ["replace-special", "replace-one"])
def test_what_tables_cost_is_that_of_the_observer_and_of_the_relation(neighbours: str) -> None:
    """Who knows more silos' noise has less in the way; records that replace each other are further apart."""
    of = plan(10**6, 10, 1e-5, neighbours=neighbours, colluding=1)
    release = of.of_sum(of.grid(1.0), of.silos)
    assert (release.shares, release.known, release.dimensions) == (7, 1, 10**6)
    apart = 2 if neighbours == "replace-one" else 1
    for known in (0, 1, 4, 6):
        seen, left = release.against(known), 8 - known
        assert seen is not None
        noise = release.noise_multiplier * math.sqrt(left / 7) / apart
        expected = drawn_noise("discrete-gaussian", 10**6, noise, left, release.variance / 7)
        assert (seen.tail, seen.ratio) == pytest.approx((expected.tail, expected.ratio), rel=1e-9, abs=0)
        assert seen.slack == release.slack == apart * of.beta


def test_a_sum_of_a_naive_bound_over_coordinates_is_less() -> None:
    rng = np.random.default_rng(0)
    for reach, multiplier in ((3.0, 0.5), (8.0, 1.0), (12.0, 4.0)):
        for _ in range(20):
            moved = np.abs(rng.standard_t(1, 50))
            moved /= np.linalg.norm(moved) * multiplier
            assert np.exp(reach * moved).sum() <= drawn._moved(reach, 50, multiplier)


@pytest.mark.parametrize(
    ("release", "delta", "told"),
    [
        (Release("gaussian", 1.0, slack=1e-7), 1e-5, "fail with probability 0.0001"),
        (Release("gaussian", 1.0, ratio=1e-8), 1e-5, "noise tables"),
        (Release("gaussian", 1e-3), 1e-5, "too little"),
    ],
)
def test_what_leaves_no_epsilon_is_named(release: Release, delta: float, told: str) -> None:
    assert told in why_infinite({release: 1000}, delta)


def test_a_target_that_tables_keep_from_being_reached_says_so() -> None:
    with pytest.raises(ConfigError, match="noise tables, which are exact to about 2"):
        noise_multiplier_for(1.0, 1e-9, lambda noise: {Release("gaussian", noise, ratio=1e-8): 10}, "pld")


def test_more_noise_than_tables_have_is_not_the_ring_s_fault() -> None:
    with pytest.raises(ConfigError, match=r"more than noise tables have: a variance of 1e\+08 leaves"):
        plan(10**9, 10, 1e-5, place="central", noise_multiplier=4.0).grid(4.0)


def test_a_count_with_more_noise_than_tables_have_is_refused_before_the_run() -> None:
    with pytest.raises(ConfigError, match=r"quantile_noise_multiplier = 1000 is more noise than tables have"):
        plan(100, 10, 1e-5, unit="silo", sample_rate=0.1, clip_quantile=0.5, quantile_noise_multiplier=1000.0)
