"""Noisy sums of columns before the first round: their noise, their price, and what a run costs with them."""

import math

import pytest

from silofl.config import PrivacyConfig
from silofl.errors import ConfigError
from silofl.privacy.accountant import epsilon
from silofl.privacy.column_statistics import StatisticsPlan
from silofl.privacy.dp_events import RELATIONS
from silofl.privacy.plan import Plan

dp_accounting = pytest.importorskip("dp_accounting")


def plans(silos=4, columns=10, rounds=20, **keys):
    """Of the statistics, and of a run with them."""
    config = PrivacyConfig(**{"unit": "example", "delta": 1e-5, **keys})
    statistics = StatisticsPlan(config, silos, columns)
    before = tuple(statistics.of_sum(silos).items())
    return statistics, Plan(config, 500, 32, silos, 1000.0, rounds, 1, before=before)


@pytest.mark.covering(1)
@pytest.mark.parametrize("neighbours", ["replace-special", "add-remove", "replace-one"])
@pytest.mark.parametrize("place", ["distributed", "central", "local"])
def test_epsilon_of_a_run_is_that_of_dp_accounting_for_the_composition(neighbours, place):
    records = 1000 if neighbours == "add-remove" else None
    noise, own = 2.0, 5.0
    _, plan = plans(
        neighbours=neighbours,
        place=place,
        records=records,
        standardize_noise_multiplier=own,
        noise_multiplier=noise,
    )
    event = dp_accounting.dp_event
    rounds = event.PoissonSampledDpEvent(0.1, event.GaussianDpEvent(noise))
    whole = event.ComposedDpEvent([event.SelfComposedDpEvent(rounds, 20), event.GaussianDpEvent(own)])
    relation = getattr(dp_accounting.NeighboringRelation, RELATIONS[neighbours])
    expected = dp_accounting.pld.PLDAccountant(relation, 1e-3).compose(whole).get_epsilon(1e-5)
    found = plan.spent_after(noise, 20)
    assert expected * (1 - 1e-3) <= found <= expected * 1.01


@pytest.mark.long
def test_target_epsilon_is_met_with_the_statistics_in_it():
    _, plan = plans(target_epsilon=2.0)
    noise = plan.noise_multiplier()
    assert 1.96 <= plan.spent_after(noise, 20) <= 2.0
    without = Plan(plan.config, 500, 32, 4, 1000.0, 20, 1)
    assert without.noise_multiplier() < noise
    assert without.spent_after(noise, 20) < 1.99


@pytest.mark.parametrize(("colluding", "dropouts"), [(0, 0), (1, 0), (2, 1)])
def test_shares_are_the_noise_that_was_promised_when_as_many_are_lost(colluding, dropouts):
    statistics, _ = plans(silos=5, colluding=colluding, dropouts=dropouts, standardize_noise_multiplier=3.0)
    sensitivity = statistics.unit * math.sqrt(20)
    for survivors in range(5 - dropouts, 6):
        ((release, count),) = statistics.of_sum(survivors).items()
        assert count == 1
        left = survivors - colluding
        assert release.noise_multiplier == pytest.approx(math.sqrt(left * statistics.share) / sensitivity)
        assert release.noise_multiplier >= 3.0 * (1 - 1e-12)
    least = statistics.of_sum(5 - dropouts)
    assert next(iter(least)).noise_multiplier == pytest.approx(3.0)


def test_a_silo_alone_adds_all_of_it_and_a_person_in_several_counts_in_each():
    statistics, _ = plans(place="local", standardize_noise_multiplier=3.0)
    assert math.sqrt(statistics.share) / statistics.sensitivity == pytest.approx(3.0)
    keys = {"unit": "patient", "institutions_per_patient": 2, "standardize_noise_multiplier": 3.0}
    alone, _ = plans(place="local", **keys)
    assert list(alone.of_sum(4).values()) == [2]
    together, _ = plans(place="distributed", **keys)
    one, _ = plans(place="distributed", unit="patient", standardize_noise_multiplier=1.5)
    costs = [epsilon(each.of_sum(4), 1e-5, "pld") for each in (together, one)]
    assert costs[0] == pytest.approx(costs[1], rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"colluding": 4}, "leave no noise of 4 silos"),
        ({"standardize_noise_multiplier": 1e6}, r"more noise than tables have: set it to 3.8.e\+03 or less"),
        (
            {"target_epsilon": 0.1},
            "privacy.target_epsilon = 0.1 cannot be kept: the sums of data.standardize",
        ),
        ({"max_epsilon": 0.1}, "privacy.max_epsilon = 0.1 cannot be kept: the sums of data.standardize"),
    ],
)
def test_what_cannot_be_is_refused(keys, sentence):
    with pytest.raises(ConfigError, match=sentence):
        StatisticsPlan(PrivacyConfig(unit="example", **keys), 4, 10).refuse_dear()


def test_a_run_whose_target_they_exceed_is_refused():
    statistics, plan = plans(target_epsilon=0.3)
    assert epsilon(statistics.of_sum(4), 1e-5, "pld") > 0.3
    with pytest.raises(ConfigError, match=r"raise privacy.standardize_noise_multiplier, now 8"):
        plan.noise_multiplier()


def test_skellam_noise_has_a_price_too():
    statistics, _ = plans(mechanism="skellam")
    gaussian, _ = plans(accountant="rdp")
    costs = [epsilon(one.of_sum(4), 1e-5, "rdp") for one in (statistics, gaussian)]
    assert costs[1] <= costs[0] <= 1.01 * costs[1]
