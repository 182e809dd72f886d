"""A person with records in several silos: what that costs, held to dp-accounting and to the definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.ledger import Ledger
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from tests.campaigns import mostly_long

DELTA = 1e-5
SHARED = [(0.9, 0.05, 2, 1), (2.0, 0.1, 2, 50), (1.5, 0.02, 4, 100), (4.0, 0.3, 3, 20)]


def shared(noise: float, rate: float, silos: int, neighbours: str = "replace-special") -> Release:
    return Release("gaussian", noise, sample_rate=rate, neighbours=neighbours, institutions=silos)


@pytest.mark.long
@pytest.mark.parametrize(("noise", "rate", "silos", "steps"), mostly_long(SHARED, 1))
def test_a_person_of_several_silos_costs_dp_accountings_mixture(
    noise: float, rate: float, silos: int, steps: int
) -> None:
    from dp_accounting.pld import privacy_loss_distribution as mechanisms

    shifts = [float(j) for j in range(silos + 1)]
    weights = [math.comb(silos, j) * rate**j * (1 - rate) ** (silos - j) for j in range(silos + 1)]
    build = mechanisms.from_mixture_gaussian_mechanism
    bounds = [
        build(noise, shifts, weights, pessimistic_estimate=above, value_discretization_interval=5e-3)
        .self_compose(steps)
        .get_epsilon_for_delta(DELTA)
        for above in (False, True)
    ]
    ours = epsilon({shared(noise, rate, silos): steps}, DELTA, "pld")
    assert bounds[0] <= ours <= 1.01 * bounds[1]
    assert ours > epsilon({shared(noise, rate, 1): steps}, DELTA, "pld")


@pytest.mark.covering(0)
@pytest.mark.parametrize(("noise", "rate", "silos"), [(1.0, 0.1, 2), (0.6, 0.02, 3), (5.0, 0.4, 5)])
def test_a_replaced_person_of_several_silos_costs_the_exact_value(
    noise: float, rate: float, silos: int
) -> None:
    ours = epsilon({shared(noise, rate, silos, "replace-one"): 1}, DELTA, "pld")
    x = np.linspace(-silos - 12 * noise, silos + 12 * noise, 2_000_001)

    def density(sign: int) -> Any:
        return sum(
            math.comb(silos, j)
            * rate**j
            * (1 - rate) ** (silos - j)
            * np.exp(-((x - sign * j) ** 2) / (2 * noise**2))
            for j in range(silos + 1)
        ) / (noise * math.sqrt(2 * math.pi))

    def delta(eps: float) -> float:
        gap = np.maximum(density(1) - math.exp(eps) * density(-1), 0)
        return float(np.sum(gap) * (x[1] - x[0]))

    assert delta(ours) <= DELTA * (1 + 1e-6)
    assert delta(ours * 0.999) > DELTA


@pytest.mark.parametrize("neighbours", ["replace-special", "replace-one"])
def test_one_silo_is_one_silo_to_the_last_bit(neighbours: str) -> None:
    """Without the key nothing is another number than before; without sampling it is k clipping norms."""
    one = Release("gaussian", 1.3, sample_rate=0.1, neighbours=neighbours)
    assert shared(1.3, 0.1, 1, neighbours) == one
    for method in ("pld", "rdp"):
        three = epsilon({shared(6.0, 1.0, 3, neighbours): 10}, DELTA, method)  # type: ignore[arg-type]
        third = epsilon({shared(2.0, 1.0, 1, neighbours): 10}, DELTA, method)  # type: ignore[arg-type]
        assert three == pytest.approx(third, rel=1e-12)


def test_renyi_orders_of_sampled_mixtures_are_refused() -> None:
    with pytest.raises(ConfigError, match="several silos sample one person"):
        epsilon({shared(1.0, 0.1, 2): 1}, DELTA, "rdp")


def test_rounds_that_different_silos_missed_add_up_for_a_person_of_both() -> None:
    ledger, release = Ledger(), shared(2.0, 0.1, 2)
    for silos in ((0, 2), (1, 3), (0, 1)):
        ledger.record(release, silos)
    assert ledger.epsilon(DELTA, "pld") == epsilon({release: 3}, DELTA, "pld")
    assert set(ledger.epsilon_per_silo(DELTA, "pld")) == {0, 1, 2, 3}
    assert ledger.epsilon_per_silo(DELTA, "pld")[0] == epsilon({release: 2}, DELTA, "pld")
    again = Ledger.from_json(ledger.to_json())
    assert again == ledger
    assert again.epsilon(DELTA, "pld") == ledger.epsilon(DELTA, "pld")


def plan(**privacy: Any) -> Plan:
    tables = {"unit": "patient", "noise_multiplier": 2.0} | privacy
    alone = tables.get("place") == "local"
    strategy = {"name": "fedavg", "momentum": 0.0} if alone else {"name": "fedsgd"}
    config = configuration.parse({"privacy": tables, "strategy": strategy})
    return Plan(config.privacy, 1000, 32, 4, 400, 5, 3 if alone else 1)


@pytest.mark.covering(0)
@pytest.mark.parametrize("place", ["distributed", "central", "local"])
def test_a_plan_counts_a_person_of_several_silos(place: str) -> None:
    """One sum of several samples, or as many releases as silos that show noisy steps of their own."""
    one, two = plan(place=place), plan(place=place, institutions_per_patient=2)
    (release, count), (other, more) = (
        next(iter(each.of_round(each.grid(2.0), 4).items())) for each in (one, two)
    )
    expected = (1, 2 * count) if place == "local" else (2, count)
    assert (other.institutions, more) == expected
    assert two.spent_after(2.0, 5) > one.spent_after(2.0, 5)
    assert two.spent_after(2.0, 5, 1) >= two.spent_after(2.0, 5, 0)
    assert release.institutions == 1


@pytest.mark.parametrize("relation", ["replace-special", "add-remove", "replace-one"])
@pytest.mark.parametrize("place", ["distributed", "central", "local"])
def test_a_patient_costs_what_an_example_costs(place: str, relation: str) -> None:
    more = {"records": 400} if relation == "add-remove" else {}
    units = [plan(unit=unit, place=place, neighbours=relation, **more) for unit in ("example", "patient")]
    assert units[0].whole(2.0) == units[1].whole(2.0)
    assert units[0].spent_after(2.0, 5) == units[1].spent_after(2.0, 5)
