"""Calibration: the least noise, seen from both sides; impossible targets with numbers."""

from __future__ import annotations

import math

import pytest

from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.calibration import LEAST_NOISE, noise_multiplier_for
from silofl.privacy.releases import Release


def training(rate: float, steps: int, mechanism: str = "gaussian", unit: float = 4096.0, slack: float = 0.0):
    """Releases of a run as a function of its noise multiplier, on a grid with `unit` steps a sensitivity."""

    def releases(noise: float) -> dict[Release, int]:
        variance = 0.0 if mechanism == "gaussian" else (noise * unit) ** 2
        return {Release(mechanism, noise, variance, rate, slack=slack): steps}  # type: ignore[arg-type]

    return releases


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("rate", "steps", "mechanism", "method"),
    [
        (1.0, 1, "gaussian", "pld"),
        (0.01, 1000, "gaussian", "pld"),
        (0.1, 200, "discrete-gaussian", "pld"),
        (0.1, 200, "skellam", "rdp"),
        (1.0, 30, "skellam", "rdp"),
    ],
)
@pytest.mark.parametrize("target", [0.3, 1.0, 8.0])
def test_the_least_noise_seen_from_both_sides(rate, steps, mechanism, method, target):
    releases = training(rate, steps, mechanism)
    noise = noise_multiplier_for(target, 1e-5, releases, method)
    assert epsilon(releases(noise), 1e-5, method) <= target
    assert epsilon(releases(noise / 1.001), 1e-5, method) > target


def test_a_known_answer():
    """Balle and Wang 2018: at epsilon 1 and delta 1e-5 the analytic Gaussian mechanism has 3.730632."""
    noise = noise_multiplier_for(1.0, 1e-5, training(1.0, 1), "pld")
    assert 3.7306 <= noise <= 3.7306 * 1.001


@pytest.mark.long
def test_two_kinds_of_release_share_a_target():
    def releases(noise: float) -> dict[Release, int]:
        return {Release("gaussian", noise, sample_rate=0.1): 100, Release("gaussian", 10 * noise): 100}

    noise = noise_multiplier_for(2.0, 1e-5, releases, "pld")
    alone = noise_multiplier_for(2.0, 1e-5, training(0.1, 100), "pld")
    assert noise > alone
    assert epsilon(releases(noise), 1e-5, "pld") <= 2.0


def test_noise_too_coarse_for_the_grid_is_too_little():
    """Any noise meets the target; the grid of 8 steps a sensitivity needs a multiplier of 4 / 8."""
    assert noise_multiplier_for(1e5, 1e-5, training(1.0, 1), "pld") == LEAST_NOISE
    noise = noise_multiplier_for(1e5, 1e-5, training(1.0, 1, "discrete-gaussian", 8.0), "pld")
    assert 0.5 <= noise <= 0.5 * 1.001


def test_impossible_targets_are_refused_with_the_numbers():
    with pytest.raises(ConfigError, match=r"fail with probability 0\.001, and privacy\.delta is only 1e-05"):
        noise_multiplier_for(1.0, 1e-5, training(0.1, 1000, slack=1e-6), "pld")
    with pytest.raises(
        ConfigError, match=r"target_epsilon = 1e-09 cannot .* multiplier 1e\+06, gives epsilon"
    ):
        noise_multiplier_for(1e-9, 1e-7, training(1.0, 10_000), "pld")
    for target in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"privacy\.target_epsilon is"):
            noise_multiplier_for(target, 1e-5, training(1.0, 1), "pld")
    with pytest.raises(ConfigError, match="sampler 'shuffle'"):
        noise_multiplier_for(
            1.0, 1e-5, lambda noise: {Release("gaussian", noise, sampler="shuffle"): 1}, "pld"
        )
