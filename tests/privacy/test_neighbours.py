"""Neighbours that are replaced, added or removed: what each costs, held to exact values and dp-accounting."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from mpmath import mp

from silofl import config as configuration
from silofl.config import PrivacyConfig
from silofl.config.neighbours import IN_WORDS, NEIGHBOURS
from silofl.errors import ConfigError
from silofl.privacy import replace_one
from silofl.privacy.accountant import epsilon
from silofl.privacy.ledger import Ledger
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from tests.campaigns import mostly_long
from tests.privacy.test_accountant import analytic

ONCE = [  # noise multiplier, sample rate, delta
    (0.5, 0.001, 1e-5),
    (0.3, 0.2, 1e-5),
    (1.0, 0.01, 1e-5),
    (1.0, 0.5, 1e-9),
    (2.0, 0.1, 1e-3),
    (5.0, 0.5, 1e-4),
    (20.0, 0.3, 1e-6),
]
COMPOSED = [  # noise multiplier, sample rate, releases, delta
    (1.0, 0.01, 100, 1e-5),
    (3.0, 0.2, 50, 1e-5),
    (0.8, 0.05, 20, 1e-6),
    (2.0, 0.5, 10, 1e-5),
    (4.0, 0.01, 1000, 1e-5),
]


def replaced(noise: float, rate: float = 1.0) -> Release:
    return Release("gaussian", noise, sample_rate=rate, neighbours="replace-one")


def replaced_once(noise: float, rate: float, delta: float) -> float:
    """Exact epsilon of (1 - q) N(0) + q N(1) and (1 - q) N(0) + q N(-1), from the definition in 40 digits."""
    with mp.workdps(40):
        z, q = mp.mpf(noise), mp.mpf(rate)

        def density(x: Any, at: int) -> Any:
            return (1 - q) + q * mp.e ** ((2 * x * at - 1) / (2 * z**2))  # over that of N(0, z^2)

        def crossing(eps: float) -> Any:
            low, high = mp.mpf(0), mp.mpf(1000) * z
            for _ in range(150):
                middle = (low + high) / 2
                above = mp.log(density(middle, 1) / density(middle, -1)) > eps
                low, high = (low, middle) if above else (middle, high)
            return high

        def at(eps: float) -> Any:
            x = crossing(eps)
            one, other = ((1 - q) * mp.ncdf(-x / z) + q * mp.ncdf((side - x) / z) for side in (1, -1))
            return one - mp.e ** mp.mpf(eps) * other

        low, high = 0.0, 60.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle) > delta else (low, middle)
        return high


@pytest.mark.covering(0)
@pytest.mark.parametrize(("noise", "rate", "delta"), mostly_long(ONCE, 1, 2))
def test_a_replaced_record_costs_the_exact_value_and_at_most_a_hundredth_more(
    noise: float, rate: float, delta: float
) -> None:
    exact = replaced_once(noise, rate, delta)
    ours = epsilon({replaced(noise, rate): 1}, delta, "pld")
    assert exact <= ours <= 1.01 * exact
    assert ours > epsilon({replace(replaced(noise, rate), neighbours="replace-special"): 1}, delta, "pld")


@pytest.mark.parametrize(("noise", "rate", "steps", "delta"), mostly_long(COMPOSED, 1))
def test_replaced_records_compose_as_dp_accounting_composes_the_pair(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    """dp-accounting has no sampled Gaussian under REPLACE_ONE: it is given both distributions, in small bins.

    What is seen in bins tells less, and its optimistic estimate is below: the exact value is above.
    """
    from dp_accounting.pld.privacy_loss_distribution import from_two_probability_mass_functions
    from scipy.stats import norm

    edges = np.arange(-12 * noise, 12 * noise, noise / 500)
    alone, one, other = (np.diff(np.concatenate([[0], norm.cdf(edges, at, noise), [1]])) for at in (0, 1, -1))
    with np.errstate(divide="ignore"):
        pair = [dict(enumerate(np.log((1 - rate) * alone + rate * moved))) for moved in (one, other)]
    kept = [k for k in pair[0] if np.isfinite([pair[0][k], pair[1][k]]).all()]
    below = from_two_probability_mass_functions(
        *({k: table[k] for k in kept} for table in reversed(pair)),
        pessimistic_estimate=False,
        value_discretization_interval=1e-5,
    )
    reference = below.self_compose(steps).get_epsilon_for_delta(delta)
    ours = epsilon({replaced(noise, rate): steps}, delta, "pld")
    assert reference <= ours <= 1.01 * reference


@pytest.mark.parametrize("method", ["pld", "rdp"])
def test_with_all_records_a_replaced_one_has_half_the_noise(method: Any) -> None:
    for steps in (1, 100):
        ours = epsilon({replaced(6.0): steps}, 1e-5, method)
        assert ours == pytest.approx(epsilon({Release("gaussian", 3.0): steps}, 1e-5, method), rel=1e-9)
    assert (
        analytic(3.0, 1, 1e-5) <= epsilon({replaced(6.0): 1}, 1e-5, "pld") <= 1.0001 * analytic(3.0, 1, 1e-5)
    )


@pytest.mark.long
def test_no_two_records_are_further_apart_than_opposite_ones() -> None:
    """The proof of `replace_one`, by number: at any angle and length the divergence is at most the pair's."""
    rng, noise, rate = np.random.default_rng(1), 0.8, 0.3
    draws = rng.standard_normal((400_000, 2)) * noise

    def ratio(at: tuple[float, float]) -> Any:
        return np.exp((draws @ at - np.dot(at, at) / 2) / noise**2)

    def divergence(one: Any, other: Any, order: float) -> float:
        return float(np.maximum((1 - rate) * (1 - order) + rate * (one - order * other), 0).mean())

    for order in (1.0, 1.5, 3.0):
        worst = divergence(ratio((1, 0)), ratio((-1, 0)), order)
        for length in (0.3, 0.7, 1.0):
            for angle in np.linspace(0, math.pi, 7):
                other = ratio((length * math.cos(angle), length * math.sin(angle)))
                assert divergence(ratio((1, 0)), other, order) <= worst * 1.01
                assert divergence(other, ratio((1, 0)), order) <= worst * 1.01


def test_losses_and_where_they_are_belong_together() -> None:
    for noise, rate in ((0.3, 0.01), (1.0, 1e-4), (3.0, 0.5), (1.0, 1.0)):
        x = np.array([-2.0, -0.3, 0.0, 0.4, 1.7]) * max(1.0, noise)
        losses = np.array([replace_one.loss(float(one), noise, rate) for one in x])
        np.testing.assert_allclose(replace_one.where(losses, noise, rate), x, rtol=1e-6, atol=1e-9)


def test_what_cannot_be_accounted_for_is_refused() -> None:
    with pytest.raises(
        ConfigError, match='no Renyi divergence is known of sampled releases under neighbours = "r'
    ):
        epsilon({replaced(1.0, 0.1): 1}, 1e-5, "rdp")
    with pytest.raises(ConfigError, match="under neighbours = replace-one and replace-special do not add up"):
        epsilon({replaced(1.0): 1, Release("gaussian", 1.0): 1}, 1e-5, "pld")
    with pytest.raises(ConfigError, match="no accountant for neighbours = 'other'"):
        epsilon({replace(replaced(1.0), neighbours="other"): 1}, 1e-5, "pld")
    for key, value in (("neighbours", 3), ("shares", 1.0), ("known", -1)):
        ledger = Ledger()
        ledger.record(replaced(1.0), [0])
        text = ledger.to_json()
        old = '"replace-one"' if key == "neighbours" else "0"
        broken = text.replace(f'"{key}": {old}', f'"{key}": {value}')
        assert broken != text
        with pytest.raises(ConfigError, match=f"a release's {key} is"):
            Ledger.from_json(broken)


def plan(silos: int = 4, **privacy: Any) -> Plan:
    config = configuration.parse(
        {
            "privacy": {"unit": "example", "noise_multiplier": 2.0} | privacy,
            "strategy": {"name": "fedsgd" if privacy.get("unit") != "silo" else "fedavg"},
        }
    )
    return Plan(config.privacy, 1000, 32, silos, 1500, 60, 1)


def test_a_fellow_silo_learns_more_than_who_sees_the_model_and_less_than_several() -> None:
    def spent(known: int | None) -> float:
        return plan(5, colluding=2).spent_after(2.0, 60, known)

    assert spent(0) < spent(1) < spent(2) == spent(None) < spent(3)
    assert spent(5) == math.inf
    one, two = (plan(5, colluding=1).of_rounds(2.0, 1), plan(5, colluding=2).of_rounds(2.0, 1))
    (first,), (second,) = one, two
    assert first.shares + first.known == second.shares + second.known == 5
    shares = [release.against(0) for release in (first, second)]
    assert [release and (release.shares, release.known) for release in shares] == [(5, 0), (5, 0)]
    whole = first.against(0)
    assert whole is not None
    assert whole.variance == pytest.approx(first.variance * 5 / 4)
    assert whole.noise_multiplier == pytest.approx(first.noise_multiplier * math.sqrt(5 / 4))


def test_noise_of_no_silo_is_known_to_none() -> None:
    for privacy in ({"place": "central"}, {"unit": "silo", "place": "central"}):
        central = plan(4, **privacy)
        assert central.spent_after(2.0, 60, 0) == central.spent_after(2.0, 60, 1)


def test_a_ledger_tells_what_each_observer_learnt() -> None:
    of = plan(5, colluding=2)
    ledger = Ledger()
    for release, count in of.of_rounds(2.0, 60).items():
        ledger.record(release, [0, 1], count)
    assert ledger.relations() == {"replace-special"}
    for known in (0, 1, 2, 3):
        told = ledger.epsilon_against(known, 1e-5, "pld")
        assert told == of.spent_after(2.0, 60, known)
    assert ledger.epsilon_against(5, 1e-5, "pld") == math.inf


@pytest.mark.parametrize("unit", ["example", "silo"])
def test_each_relation_is_what_the_plan_counts_under(unit: str) -> None:
    costs = {}
    for neighbours in NEIGHBOURS:
        if (unit, neighbours) not in IN_WORDS:
            continue
        records = {"records": 1500} if neighbours == "add-remove" else {}
        of = plan(unit=unit, neighbours=neighbours, **records)
        assert {one.neighbours for one in of.of_rounds(2.0, 1)} == {neighbours}
        costs[neighbours] = of.spent_after(20.0, 60)
    assert costs["replace-one"] > (1.9 if unit == "silo" else 1.01) * costs["replace-special"]
    assert costs.get("add-remove", costs["replace-special"]) == costs["replace-special"]


def test_the_count_for_the_clipping_norm_has_its_neighbours_too() -> None:
    of = plan(unit="silo", neighbours="replace-one", clip_quantile=0.5)
    assert {one.neighbours for one in of.of_rounds(2.0, 1)} == {"replace-one"}


@pytest.mark.parametrize(
    ("privacy", "told"),
    [
        ({"neighbours": "add-remove"}, "set privacy.records to how many training records"),
        ({"unit": "silo", "neighbours": "add-remove"}, 'set "replace-special" or "replace-one"'),
        ({"records": 100}, 'privacy.records is set and privacy.neighbours is "replace-special"'),
        ({"neighbours": "replace-one", "accountant": "rdp"}, 'set privacy.accountant to "pld"'),
        ({"neighbours": "replace-one", "mechanism": "skellam"}, 'set privacy.accountant to "pld"'),
        ({"neighbours": "substitute"}, "privacy.neighbours = 'substitute' is not allowed"),
        ({"adjacency": "replace-one"}, "did you mean privacy.neighbours?"),
        ({"neighbors": "replace-one"}, "did you mean privacy.neighbours?"),
    ],
)
def test_what_a_relation_needs_is_asked_for(privacy: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(**privacy)
    assert told in str(caught.value)


def test_every_relation_has_words() -> None:
    assert {relation for _, relation in IN_WORDS} == set(NEIGHBOURS)
    assert PrivacyConfig().neighbours in NEIGHBOURS
