"""Sections that contradict each other; a strategy is asked for what it is, never for its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import pytest

from silofl import config as configuration
from silofl.config import conflicts
from silofl.errors import ConfigError
from silofl.strategies.base import Strategy

EXAMPLE = {"unit": "example", "noise_multiplier": 1.0}
SILO = {"unit": "silo", "noise_multiplier": 1.0}


def refused(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        configuration.parse(sections)
    return str(caught.value)


@pytest.mark.parametrize(
    ("privacy", "remedy"),
    [
        (SILO, 'set strategy.name = "fedavg"'),
        (SILO | {"place": "local"}, 'set strategy.name = "fedavg"'),
        (SILO | {"place": "central"}, 'set strategy.name = "fedavg"'),
        (EXAMPLE, 'set privacy.place = "local"'),
        (EXAMPLE | {"place": "central"}, 'set privacy.place = "local"'),
    ],
)
def test_noise_covers_one_vector(privacy: dict[str, Any], remedy: str) -> None:
    sentence = refused(privacy=privacy, strategy={"name": "scaffold"})
    assert sentence.startswith('strategy.name = "scaffold" sends control beside the update')
    assert sentence.endswith(remedy)


def test_all_that_noisy_steps_lead_to_may_be_sent() -> None:
    config = configuration.parse({"privacy": EXAMPLE | {"place": "local"}, "strategy": {"name": "scaffold"}})
    assert config.strategy.name == "scaffold"
    for privacy in (SILO, SILO | {"place": "local"}, EXAMPLE | {"place": "local"}):
        assert configuration.parse({"privacy": privacy, "strategy": {"name": "fedprox"}})


@pytest.mark.parametrize(
    ("name", "place", "told"),
    [
        ("fedavg", "distributed", 'set strategy.name = "fedsgd", or privacy.place = "local"'),
        ("fedprox", "central", 'set strategy.name = "fedsgd", or privacy.place = "local"'),
        ("fedsgd", "local", 'strategy.name = "fedsgd" does not: set "fedavg"'),
    ],
)
def test_noisy_gradients_and_noisy_training(name: str, place: str, told: str) -> None:
    assert told in refused(privacy=EXAMPLE | {"place": place}, strategy={"name": name})


@final
@dataclass(frozen=True)
class Mine(Strategy):
    """A strategy that the rules have never heard of."""

    local = "gradient"
    scalars = ("steps",)
    sends = {"update": "round"}  # noqa: RUF012

    def refusal(self, train: Any) -> str | None:
        return f"train.epochs = {train.epochs}: set it to 1" if train.epochs == 2 else None


def test_a_new_strategy_is_asked_for_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conflicts, "build", lambda _: Mine())
    assert refused(train={"epochs": 2}) == "train.epochs = 2: set it to 1"
    assert configuration.parse({"train": {"epochs": 1}})
    sentence = refused(privacy=EXAMPLE)
    assert "tells steps and update of each silo's training without noise" in sentence


@pytest.mark.parametrize("name", ["fedprox"])
def test_corrected_gradients_are_dense(name: str) -> None:
    train = {"optimizer": "SparseAdam"}
    assert 'train.optimizer = "SparseAdam"' in refused(train=train, strategy={"name": name})
    assert configuration.parse({"train": train}).train.optimizer == "SparseAdam"


def test_contradictions_of_privacy_alone_are_refused_as_before() -> None:
    for sections, told in (
        ({"privacy": {"unit": "silo"}}, "takes its noise from one key"),
        ({"privacy": SILO | {"sample_rate": 0.5}}, "samples no records"),
    ):
        assert told in refused(**sections)


BANDS = EXAMPLE | {"bands": 4, "sample_rate": 0.1}
SGD, TEN = {"name": "fedsgd"}, {"rounds": 10}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"privacy": BANDS, "run": {"rounds": 3}}, "privacy.bands = 4 are more than run.rounds = 3: set"),
        (
            {"privacy": BANDS | {"sample_rate": 0.5}},
            "set privacy.sample_rate to 0.25 or less, or privacy.bands",
        ),
        (
            {"privacy": BANDS | {"place": "central"}},
            'privacy.place is "central": set privacy.place = "distrib',
        ),
        ({"privacy": BANDS | {"place": "local"}, "strategy": {"name": "fedavg"}}, 'privacy.place is "local"'),
        ({"privacy": BANDS | {"mechanism": "skellam"}}, 'privacy.mechanism is "skellam": set'),
        ({"privacy": SILO | {"bands": 4}, "strategy": {"name": "fedavg"}}, "every silo takes part in every"),
    ],
)
def test_what_correlated_noise_does_not_go_with(sections: dict[str, Any], told: str) -> None:
    assert told in refused(**{"run": TEN, "strategy": SGD} | sections)


def test_correlated_noise_goes_with_all_records_of_a_group() -> None:
    for rate in (0.1, 0.25):
        privacy = BANDS | {"sample_rate": rate}
        assert configuration.parse({"run": TEN, "strategy": SGD, "privacy": privacy}).privacy.bands == 4
