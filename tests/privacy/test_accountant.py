"""Epsilon: never below the exact value, at most 1% above dp-accounting's, and refused where not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mpmath import mp

from silofl.privacy.accountant import (
    _INTEGER,
    _renyi,
    _skellam_renyi,
    epsilon,
)
from silofl.privacy.loss_distributions import _grid_step, _side_epsilon
from silofl.privacy.releases import Release
from tests.campaigns import mostly_long

SETTINGS = [  # noise multiplier, sample rate, steps, delta
    (0.5, 0.001, 1, 1e-5),
    (0.5, 0.001, 10_000, 1e-6),
    (0.5, 0.01, 500, 1e-3),
    (0.7, 1.0, 3, 1e-5),
    (1.0, 0.01, 1, 1e-5),
    (1.0, 0.01, 10_000, 1e-5),
    (1.1, 0.004, 10_000, 1e-6),
    (2.0, 0.1, 1000, 1e-3),
    (3.0, 1.0, 100, 1e-6),
    (4.0, 0.01, 10_000, 1e-5),
    (5.0, 0.5, 300, 1e-4),
    (8.0, 0.01, 10_000, 1e-6),
    (20.0, 0.3, 3000, 1e-5),
    (40.0, 1.0, 10_000, 1e-5),
    (100.0, 0.001, 10_000, 1e-6),
    (100.0, 0.5, 10_000, 1e-3),
    (100.0, 1.0, 1, 1e-6),
]


def gaussian(noise: float, rate: float = 1.0, slack: float = 0.0) -> Release:
    return Release("gaussian", noise, sample_rate=rate, slack=slack)


def solved(delta_at, delta: float, most: float = 1e5) -> float:
    """The least epsilon >= 0 with delta_at(epsilon) <= delta, by bisection."""
    low, high = 0.0, most
    if delta_at(0.0) <= delta:
        return 0.0
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_at(middle) > delta else (low, middle)
    return high


def analytic(noise: float, steps: int, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, in 60 digits: what `steps` Gaussians cost exactly."""
    with mp.workdps(60):
        mu = mp.sqrt(steps) / mp.mpf(noise)

        def at(eps: float) -> float:
            e = mp.mpf(eps)
            return mp.ncdf(mu / 2 - e / mu) - mp.e**e * mp.ncdf(-mu / 2 - e / mu)

        return solved(at, delta)


def sampled_once(noise: float, rate: float, delta: float) -> float:
    """Exact epsilon of one Poisson-sampled Gaussian, both directions, from the definition in 40 digits."""
    with mp.workdps(40):
        z, q = mp.mpf(noise), mp.mpf(rate)

        def crossing(ratio):  # where the mixture's density is `ratio` times that of N(0, z^2)
            return z**2 * mp.log((ratio - (1 - q)) / q) + mp.mpf(1) / 2

        def removed(eps):
            x = crossing(mp.e ** mp.mpf(eps))
            return (
                (1 - q) * mp.ncdf(-x / z) + q * mp.ncdf((1 - x) / z) - mp.e ** mp.mpf(eps) * mp.ncdf(-x / z)
            )

        def added(eps):
            ratio = mp.e ** mp.mpf(-eps)
            if ratio <= 1 - q:
                return mp.mpf(0)
            x = crossing(ratio)
            mixed = (1 - q) * mp.ncdf(x / z) + q * mp.ncdf((x - 1) / z)
            return mp.ncdf(x / z) - mp.e ** mp.mpf(eps) * mixed

        return solved(lambda eps: max(removed(eps), added(eps)), delta, 100.0)


@pytest.mark.covering(0)
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), mostly_long(SETTINGS, 0, 7, 12, 16))
def test_at_most_a_hundredth_above_dp_accounting_and_never_below_the_exact(noise, rate, steps, delta):
    import dp_accounting
    from dp_accounting.pld import PLDAccountant

    event = dp_accounting.GaussianDpEvent(noise)
    reference = PLDAccountant()
    reference.compose(event if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, event), steps)
    ours = epsilon({gaussian(noise, rate): steps}, delta, "pld")
    assert ours <= 1.01 * reference.get_epsilon(delta)
    if rate == 1:
        assert analytic(noise, steps, delta) <= ours <= 1.0001 * analytic(noise, steps, delta)
    elif steps == 1:
        assert sampled_once(noise, rate, delta) <= ours <= 1.01 * sampled_once(noise, rate, delta)


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), mostly_long([(1.0, 0.01, 100), (3.0, 0.2, 50), (0.8, 0.05, 20)], 1)
)
def test_sampled_releases_composed_are_above_dp_accountings_lower_bound(noise, rate, steps):
    from dp_accounting.pld import privacy_loss_distribution as pld

    below = pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, pessimistic_estimate=False, use_connect_dots=False
    )
    lower = below.self_compose(steps, 0).get_epsilon_for_delta(1e-5)
    assert lower <= epsilon({gaussian(noise, rate): steps}, 1e-5, "pld") <= lower + 2e-4 * steps


@pytest.mark.covering(1)
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), [row for row in SETTINGS if row[1] < 1])
def test_a_coarser_grid_is_above_a_finer_one_and_close(noise, rate, steps, delta):
    """Both are above the exact value, to which the finer one is four times as close in each step."""
    parts = [((noise, rate, 1), steps)]
    step = _grid_step(parts)
    coarse, fine = ([_side_epsilon(parts, side, part, delta) for side in (0, 1)] for part in (step, step / 4))
    assert all(above >= below * (1 - 1e-9) for above, below in zip(coarse, fine, strict=True))
    assert max(coarse) <= 1.002 * max(fine)


@pytest.mark.covering(1)
@pytest.mark.parametrize("delta", [1e-15, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("steps", [1, 10, 100, 1000, 10_000])
@pytest.mark.parametrize("noise", [0.5, 1.0, 7.0, 100.0])
def test_the_grid_and_the_transforms_against_the_exact_gaussian(noise, steps, delta):
    parts = [((noise, 1.0, 1), steps)]
    exact = analytic(noise, steps, delta)
    for side in (0, 1):
        ours = _side_epsilon(parts, side, _grid_step(parts), delta)
        assert exact <= ours <= 1.01 * exact + 1e-9


@pytest.mark.covering(1)
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
@pytest.mark.parametrize(
    ("noise", "rate"), [(0.5, 0.01), (1, 0.1), (0.6, 0.5), (5, 0.3), (1, 0.9999), (30, 0.9), (100, 0.5)]
)
def test_one_sampled_release_against_the_definition(noise, rate, delta):
    exact = sampled_once(noise, rate, delta)
    assert exact <= epsilon({gaussian(noise, rate): 1}, delta, "pld") <= 1.001 * exact + 1e-9


def test_published_values():
    """DP-SGD's published epsilons, by the conversion of their time, rdp + log(1 / delta) / (order - 1)."""

    def moments(noise, rate, steps, delta):
        orders = np.array(_INTEGER)
        divergences = steps * _renyi(gaussian(noise, rate))[-orders.size :]
        return np.min(divergences + math.log(1 / delta) / (orders - 1))

    assert moments(4, 0.01, 10_000, 1e-5) == pytest.approx(1.26, abs=0.005)  # Abadi et al. 2016, Section 3.2
    rate = 256 / 60_000  # MNIST in the tutorials of TensorFlow Privacy
    assert moments(1.3, rate, 15 / rate, 1e-5) == pytest.approx(1.19, abs=0.01)
    assert moments(1.1, rate, 60 / rate, 1e-5) == pytest.approx(3.01, abs=0.01)
    assert moments(0.7, rate, 45 / rate, 1e-5) == pytest.approx(7.10, abs=0.05)
    assert epsilon({gaussian(1.1, rate): 14_062}, 1e-5, "pld") < 2.92  # PLD is tighter than any of them


@pytest.mark.parametrize(("noise", "rate"), [(0.8, 0.02), (4, 0.01), (2, 1.0), (50, 0.3), (100, 0.001)])
def test_renyi_orders_are_dp_accountings(noise, rate):
    import dp_accounting
    from dp_accounting.rdp import RdpAccountant

    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    for order in (2, 3, 17, 128):
        reference = RdpAccountant(orders=[order])
        reference.compose(event, 1000)
        ours = 1000 * _renyi(gaussian(noise, rate))[-len(_INTEGER) :][_INTEGER.index(order)]
        assert ours == pytest.approx(reference._rdp[0], rel=1e-5)


EXTREMES = [  # noise multiplier, sample rate, steps, delta
    *((0.3, 0.01, 1, 1e-5), (0.3, 0.5, 1, 1e-5), (1, 1e-4, 1, 1e-12), (1, 0.5, 1, 1e-12)),
    *((1, 0.99, 1, 1e-5), (0.3, 1e-4, 1, 1e-5)),
]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), EXTREMES)
def test_one_release_at_its_extremes_is_within_a_hundred_thousandth(noise, rate, steps, delta):
    exact = sampled_once(noise, rate, delta)
    assert exact <= epsilon({gaussian(noise, rate): steps}, delta, "pld") <= (1 + 1e-5) * exact


COMPOSED = [
    (1.0, 1e-4, 100_000, 1e-12),
    (1.0, 0.01, 1000, 1e-12),
    (100.0, 0.99, 1000, 1e-12),
    (10.0, 0.1, 1000, 1e-10),
    (3.0, 0.25, 5000, 1e-9),
    (5.0, 0.01, 100_000, 1e-8),
    (0.6, 0.001, 100_000, 1e-7),
    (0.3, 1e-4, 100_000, 1e-3),
]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), mostly_long(COMPOSED, 0, 3))
def test_little_deltas_of_many_releases(noise, rate, steps, delta):
    """At so little delta transforms would lose it in their rounding: it was infinite for the first."""
    from dp_accounting.pld import privacy_loss_distribution as pld

    ours = epsilon({gaussian(noise, rate): steps}, delta, "pld")
    theirs = pld.from_gaussian_mechanism(noise, sampling_prob=rate, value_discretization_interval=1e-4)
    above = theirs.self_compose(steps, 1e-15).get_epsilon_for_delta(delta)
    assert 0 < ours <= 1.002 * above
    parts = [((noise, rate, 1), steps)]
    step = _grid_step(parts)
    fine = max(_side_epsilon(parts, side, step / 2, delta) for side in (0, 1))
    assert fine * (1 - 1e-9) <= ours <= 1.005 * fine


def discrete_probs(mechanism: str, variance: float, reach: int) -> np.ndarray:
    """Probabilities of -reach..reach."""
    from scipy.special import ive

    at = np.arange(-reach, reach + 1.0)
    probs = np.exp(-(at**2) / (2 * variance)) if mechanism == "discrete-gaussian" else ive(abs(at), variance)
    return probs / probs.sum()


def mixture(mechanism: str, variance: float, shift: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """What is shown of a record of size `shift` that takes part with probability `rate`, and without it."""
    reach = shift + int(11 * math.sqrt(variance)) + 5
    without = discrete_probs(mechanism, variance, reach)[shift:]
    moved = discrete_probs(mechanism, variance, reach)[: without.size]
    return rate * moved + (1 - rate) * without, without


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("variance", "shift"), [(16, 2), (20, 5), (100, 9), (400, 10), (400, 25), (900, 3), (10_000, 80)]
)
@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_discrete_gaussian_against_its_exact_sum(variance, shift, rate):
    within, without = mixture("discrete-gaussian", variance, shift, rate)

    def at(eps: float) -> float:
        return max(
            np.maximum(within - math.exp(eps) * without, 0).sum(),
            np.maximum(without - math.exp(eps) * within, 0).sum(),
        )

    release = Release("discrete-gaussian", math.sqrt(variance) / shift, variance, rate)
    for delta in (1e-3, 1e-6):
        exact = solved(at, delta, 50.0)
        ours = epsilon({release: 1}, delta, "pld")
        assert ours >= exact
        if variance >= 400:
            assert ours <= 1.01 * exact
        assert epsilon({release: 1}, delta, "rdp") >= exact


@pytest.mark.parametrize(
    ("variance", "shift", "rate", "steps"), mostly_long([(400, 10, 0.05, 200), (400, 4, 1.0, 10)], 1)
)
def test_discrete_gaussians_composed_against_dp_accounting(variance, shift, rate, steps):
    from dp_accounting.pld import privacy_loss_distribution as pld

    release = Release("discrete-gaussian", math.sqrt(variance) / shift, variance, rate)
    bounds = [
        pld.from_discrete_gaussian_mechanism(
            math.sqrt(variance), shift, sampling_prob=rate, pessimistic_estimate=above, use_connect_dots=above
        )
        .self_compose(steps, 1e-15 if above else 0)
        .get_epsilon_for_delta(1e-5)
        for above in (False, True)
    ]
    assert bounds[0] <= epsilon({release: steps}, 1e-5, "pld") <= 1.01 * bounds[1]


def test_sums_of_discrete_gaussians_are_discrete_gaussians():
    """Five of variance 4 each: the probabilities of one of variance 20, but for the docstring's factor."""
    part, whole = discrete_probs("discrete-gaussian", 4, 40), np.ones(1)
    for _ in range(5):
        whole = np.convolve(whole, part)
    one = discrete_probs("discrete-gaussian", 20, 200)
    assert np.allclose(whole[170:231], one[170:231], rtol=1e-13, atol=0)


@pytest.mark.covering(0)
@pytest.mark.parametrize(("variance", "shift"), [(4, 1), (16, 2), (100, 1), (100, 10), (2500, 40)])
def test_skellam_bound_is_above_the_exact_divergence(variance, shift):
    from scipy.stats import skellam

    release = Release("skellam", math.sqrt(variance) / shift, variance)
    at = np.arange(-3000, 3001)
    with np.errstate(divide="ignore"):
        log_p = skellam.logpmf(at, variance / 2, variance / 2)
        log_q = skellam.logpmf(at - shift, variance / 2, variance / 2)
    known = np.isfinite(log_p) & np.isfinite(log_q)
    for order in (2, 3, 8, 32):
        exact = np.logaddexp.reduce(order * log_p[known] - (order - 1) * log_q[known]) / (order - 1)
        bound = float(_skellam_renyi(np.array([float(order)]), release)[0])
        assert bound >= exact > 0
        if order * shift <= variance / 10:
            assert bound <= 1.1 * exact


@pytest.mark.covering(1)
@pytest.mark.parametrize("mechanism", ["skellam", "discrete-gaussian"])
@pytest.mark.parametrize(("variance", "shift", "rate"), [(16, 2, 0.1), (100, 10, 0.3), (100, 5, 0.01)])
def test_sampled_discrete_noise_is_within_its_renyi_bound(mechanism, variance, shift, rate):
    release = Release(mechanism, math.sqrt(variance) / shift, variance, rate)
    within, without = mixture(mechanism, variance, shift, rate)
    seen = (within > 1e-200) & (without > 1e-200)
    p, q = np.log(within[seen]), np.log(without[seen])
    divergences = _renyi(release)[-len(_INTEGER) :]
    for order in (2, 3, 8, 20):
        for one, other in ((p, q), (q, p)):
            exact = np.logaddexp.reduce(order * one - (order - 1) * other) / (order - 1)
            assert divergences[_INTEGER.index(order)] >= exact * (1 - 1e-9) - 1e-14
