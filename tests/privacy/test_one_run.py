"""Bounds from one run hold for what is as private as claimed, and reach nearly as far."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from silofl.privacy.accountant import epsilon
from silofl.privacy.one_run import (
    accuracy,
    by_accuracy,
    p_value,
    refutes,
    surest,
    with_noise,
    without_assumptions,
)
from silofl.privacy.releases import Release


def naive_p_value(canaries: int, guesses: int, right: int, eps: float, delta: float) -> float:
    """Theorem 5.2 word by word: every outcome of every guess that is right by itself with probability q."""
    q, masses = math.exp(eps) / (math.exp(eps) + 1), [0.0] * (guesses + 1)
    for outcome in product((0, 1), repeat=guesses):
        masses[sum(outcome)] += q ** sum(outcome) * (1 - q) ** (guesses - sum(outcome))
    at_least = sum(masses[right:])
    alpha = max(
        (2 / i * sum(masses[k] for k in range(guesses + 1) if right > k >= right - i))
        for i in range(1, canaries + 1)
    )
    return min(1.0, at_least + alpha * canaries * delta)


@pytest.mark.parametrize("guesses", [1, 5, 9])
@pytest.mark.parametrize(("eps", "delta"), [(0.0, 0.0), (1.0, 1e-3), (3.0, 1e-2)])
def test_the_p_value_is_that_of_the_theorem(guesses: int, eps: float, delta: float) -> None:
    for right in range(guesses + 1):
        found = p_value(12, guesses, right, eps, delta)
        assert math.isclose(found, naive_p_value(12, guesses, right, eps, delta), rel_tol=1e-9)


def test_randomized_response_is_refuted_as_seldom_as_is_said() -> None:
    """Its guesses are right as often as the claim allows: the worst mechanism that there is."""
    rng, eps, canaries = np.random.default_rng(0), 1.5, 200
    right = rng.binomial(canaries, 1 / (1 + math.exp(-eps)), 4000)
    refuted = np.mean([p_value(canaries, canaries, int(one), eps, 0.0) <= 0.05 for one in right])
    assert 0.02 < refuted < 0.06


def gaussian(noise: float, canaries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of canaries that are there or not, under noise of so many times their size."""
    rng = np.random.default_rng(seed)
    there = rng.random(canaries) < 0.5
    seen = there + noise * rng.standard_normal(canaries)
    return (seen - 0.5) / noise**2, there


def test_bounds_stay_below_the_truth_and_reach_far() -> None:
    spent, delta = {Release("gaussian", 1.0, sampler="none"): 1}, 1e-5
    truth, above, found = epsilon(spent, delta, "pld"), 0, []
    for seed in range(10):
        scores, there = gaussian(1.0, 2000, seed)
        least = accuracy(scores, there, 0.025)
        found.append(by_accuracy(least, spent, delta, "pld"))
        any_mechanism, guesses, right = without_assumptions(scores, there, delta, 0.025)
        assert surest(scores, there, guesses) == right
        above += max(found[-1], any_mechanism) > truth
        assert refutes(least, spent, delta, "pld") == (found[-1] > truth * 1.02)
    assert above <= 2  # of 10, each with a probability of 5 %
    assert np.median(found) > 0.7 * truth
    scores, there = gaussian(0.5, 2000, 0)
    assert refutes(accuracy(scores, there, 0.025), spent, delta, "pld")


def test_what_nobody_can_guess_proves_nothing() -> None:
    spent = {Release("gaussian", 1.0, sampler="none"): 1}
    there = np.arange(1000) % 2 == 0
    scores = np.where(np.arange(1000) % 4 < 2, 1.0, -1.0)
    assert by_accuracy(accuracy(scores, there, 0.025), spent, 1e-5, "pld") == 0
    assert without_assumptions(scores, there, 1e-5, 0.025)[0] == 0


def test_with_noise_of_one_time_nothing_is_another() -> None:
    spent = {Release("discrete-gaussian", 1.0, variance=400.0, sample_rate=0.1): 3}
    assert with_noise(spent, 1.0) == spent
    assert epsilon(with_noise(spent, 2.0), 1e-5, "pld") < epsilon(spent, 1e-5, "pld")
