"""What epsilon obeys whatever was spent, what is taken off delta, and what is refused by name."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.loss_distributions import gaussian_of
from silofl.privacy.releases import Release, TooCoarseError
from tests.campaigns import mostly_long
from tests.privacy.test_accountant import analytic, gaussian


def test_skellam_costs_a_little_more_than_the_gaussian():
    fine = epsilon({Release("skellam", 2.0, 1e8, 0.1): 100}, 1e-5, "rdp")
    coarse = epsilon({Release("skellam", 2.0, 100.0, 0.1): 100}, 1e-5, "rdp")
    plain = epsilon({gaussian(2.0, 0.1): 100}, 1e-5, "rdp")
    assert plain <= fine <= 1.0001 * plain
    assert plain < coarse < 1.2 * plain
    assert epsilon({Release("skellam", 2.0, 1e8): 1}, 1e-5, "rdp") < math.inf


spends = st.tuples(
    st.floats(0.5, 100), st.floats(0.001, 1), st.integers(1, 10_000), st.floats(1e-6, 1e-3), st.just("pld")
)


@pytest.mark.long
@pytest.mark.parametrize("examples", mostly_long([8, 200], 0))
def test_monotone_and_never_negative(examples):
    @settings(max_examples=examples, deadline=None)
    @example((1.0, 0.9999999999999999, 96, 0.000997391582547344, "pld"), 2.0, "pld")
    @given(spends, st.floats(1.001, 3), st.sampled_from(["pld", "rdp"]))
    def check(spend, factor, method):
        monotone(spend, factor, method)

    check()


def monotone(spend, factor, method):
    noise, rate, steps, delta, _ = spend
    base = epsilon({gaussian(noise, rate): steps}, delta, method)
    allowed = base * (1 - 1e-6) - 1e-9
    assert base >= 0
    assert epsilon({gaussian(noise, rate): math.ceil(steps * factor)}, delta, method) >= allowed
    assert epsilon({gaussian(noise / factor, rate): steps}, delta, method) >= allowed
    assert epsilon({gaussian(noise, min(1.0, rate * factor)): steps}, delta, method) >= allowed
    assert epsilon({gaussian(noise, rate): steps}, delta / factor, method) >= allowed
    assert epsilon({gaussian(noise, rate): steps, gaussian(9.0, 0.2): 3}, delta, method) >= allowed


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("noise", "rate"), mostly_long([(1.0, 0.01), (8.0, 0.1), (100.0, 0.001), (2.0, 1.0)], 0, 2)
)
def test_every_single_step_costs(noise, rate):
    last = 0.0
    for count in range(1, 151):
        now = epsilon({gaussian(noise, rate): count}, 1e-6, "pld")
        assert now >= last
        last = now
    assert last > 0


@pytest.mark.long
@pytest.mark.parametrize("examples", mostly_long([8, 100], 0))
def test_bits_depend_on_the_counts_alone(examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.lists(spends, min_size=2, max_size=4), st.randoms(), st.sampled_from(["pld", "rdp"]))
    def check(entries, random, method):
        bits_of_counts(entries, random, method)

    check()


def bits_of_counts(entries, random, method):
    spent = {gaussian(noise, rate): steps for noise, rate, steps, _, _ in entries}
    pieces = [(release, 1) for release in spent] + [(r, n - 1) for r, n in spent.items() if n > 1]
    random.shuffle(pieces)
    counted: Counter[Release] = Counter()
    for release, count in pieces:
        counted[release] += count
        epsilon(counted, 1e-5, method)
    assert epsilon(counted, 1e-5, method) == epsilon(spent, 1e-5, method)


def test_mixed_releases_compose():
    """Gaussians of all kinds that together are one Gaussian, and a Gaussian beside a sampled one."""
    both = epsilon({gaussian(2.0): 3, Release("discrete-gaussian", 5.0, 1e10): 7}, 1e-5, "pld")
    assert both == pytest.approx(analytic(1 / math.sqrt(3 / 4 + 7 / 25), 1, 1e-5), rel=1e-8)
    beside = epsilon({gaussian(2.0): 3, gaussian(100.0, 0.001): 1}, 1e-5, "pld")
    exact = analytic(2.0, 3, 1e-5)
    assert exact < beside < 1.001 * exact
    mixed = epsilon({gaussian(2.0, 0.1): 50, Release("skellam", 2.0, 1e9, 0.1): 50}, 1e-5, "rdp")
    assert mixed == pytest.approx(epsilon({gaussian(2.0, 0.1): 100}, 1e-5, "rdp"), rel=1e-6)


@pytest.mark.parametrize("method", ["pld", "rdp"])
def test_slack_is_taken_off_delta(method):
    assert epsilon({gaussian(3.0, 0.1, slack=9e-8): 100}, 1e-5, method) == pytest.approx(
        epsilon({gaussian(3.0, 0.1): 100}, 1e-6, method) + 9e-6, rel=1e-9
    )
    assert epsilon({gaussian(3.0, 0.1, slack=1e-7): 101}, 1e-5, method) == math.inf
    assert epsilon({}, 1e-5, method) == 0.0
    assert epsilon({gaussian(3.0): 0}, 1e-5, method) == 0.0


@pytest.mark.covering(1)
@pytest.mark.parametrize("method", ["pld", "rdp"])
@pytest.mark.parametrize(("distance", "part"), [(1e-15, 1e-3), (5e-13, 0.03), (1e-11, 0.5)])
def test_noise_that_is_not_quite_as_described_takes_its_share_of_delta(method, distance, part):
    """What is private with one noise is so with another, at distance t, at delta + (1 + exp(epsilon)) t."""
    certain = epsilon({gaussian(1.0, 0.1): 100}, 1e-5 * (1 - part), method)
    assert epsilon({gaussian_off(distance): 100}, 1e-5, method) == certain
    assert (1 + math.exp(certain)) * distance * 100 <= part * 1e-5
    assert epsilon({gaussian_off(1e-7): 100}, 1e-5, method) == math.inf


@pytest.mark.covering(0)
@pytest.mark.parametrize("method", ["pld", "rdp"])
def test_likelihoods_that_are_off_take_their_share_of_delta(method):
    """Times nothing: whatever epsilon is, delta is less by the mean over r, and epsilon more by 2 r."""
    for rest, mean in ((1e-3, 1e-17), (0.03, 1e-9), (0.3, 5e-8)):
        release = Release("gaussian", 1.0, sample_rate=0.1, ratio=mean / 100)
        off = mean / (rest * 1e-5)
        known = epsilon({gaussian_off(0.0): 100}, (1 - rest) * 1e-5 * math.exp(-off), method) + 2 * off
        assert epsilon({release: 100}, 1e-5, method) == pytest.approx(known, rel=1e-9)
    beyond = Release("gaussian", 1.0, sample_rate=0.1, ratio=1e-4)
    assert math.isinf(epsilon({beyond: 100}, 1e-5, method))


def gaussian_off(distance: float) -> Release:
    return Release("gaussian", 1.0, sample_rate=0.1, distance=distance)


def test_a_discrete_gaussian_gives_up_three_of_its_variance():
    assert gaussian_of(Release("discrete-gaussian", 2.0, 16.0, 0.5)) == (2.0 * math.sqrt(13 / 16), 0.5)


@pytest.mark.parametrize(
    ("release", "sentence"),
    [
        (Release("laplace", 1.0), "no accountant for the mechanism 'laplace'"),  # type: ignore[arg-type]
        (Release("gaussian", 1.0, sampler="shuffle"), "no accountant for the sampler 'shuffle'"),
        (Release("gaussian", 1.0, sampler="fixed"), "no accountant for the sampler 'fixed'"),
        (Release("gaussian", 1.0, sample_rate=0.5, sampler="none"), "the sample rate is 1, not 0.5"),
        (Release("gaussian", 1.0, sample_rate=0.0), "sample rate of 0.0"),
        (Release("gaussian", 1.0, sample_rate=1.1), "sample rate of 1.1"),
        (Release("gaussian", 1.0, sample_rate=math.nan), "sample rate of nan"),
        (Release("gaussian", 0.0), "noise multiplier of 0.0"),
        (Release("gaussian", -1.0), "noise multiplier of -1.0"),
        (Release("gaussian", math.inf), "noise multiplier of inf"),
        (Release("gaussian", math.nan), "noise multiplier of nan"),
        (Release("skellam", 1.0, 0.0), "variance of 0.0"),
        (Release("skellam", 1.0, math.nan), "variance of nan"),
        (Release("gaussian", 1.0, slack=1.0), "slack of 1.0"),
        (Release("gaussian", 1.0, slack=-0.1), "slack of -0.1"),
        (Release("gaussian", 1.0, distance=-0.1), "distance of -0.1"),
        (
            Release("discrete-gaussian", 1.0, 15.9),
            "variance of 15.9 .* below the 16 needed; use a finer grid",
        ),
    ],
)
def test_what_cannot_be_supported_is_refused_by_name(release, sentence):
    for method in ("pld", "rdp"):
        with pytest.raises(ConfigError, match=sentence):
            epsilon({release: 1}, 1e-5, method)


def test_other_refusals():
    with pytest.raises(ConfigError, match="of skellam noise in many dimensions; use accountant = 'rdp'"):
        epsilon({Release("skellam", 1.0, 100.0): 1}, 1e-5, "pld")
    with pytest.raises(ConfigError, match="accountant is 'zcdp'"):
        epsilon({}, 1e-5, "zcdp")  # type: ignore[arg-type]
    with pytest.raises(TooCoarseError):
        epsilon({Release("discrete-gaussian", 1.0, 4.0): 1}, 1e-5, "pld")
    for delta in (0.0, 1.0, -1e-5, math.nan):
        with pytest.raises(ConfigError, match="delta is"):
            epsilon({}, delta, "pld")
    for count in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="times; that must be a whole number"):
            epsilon({gaussian(1.0): count}, 1e-5, "pld")


def test_without_dp_accounting_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(
        ConfigError, match=r"\[privacy\] needs dp-accounting: pip install 'silofl\[privacy\]'"
    ):
        epsilon({gaussian(1.0): 1}, 1e-5, "pld")


def test_dp_accounting_is_not_loaded_before_it_is_needed():
    code = (
        "import sys, silofl.privacy.ledger, silofl.privacy.calibration as c\n"
        "assert not {'dp_accounting', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
