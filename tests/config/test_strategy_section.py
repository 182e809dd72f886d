"""[strategy]: its keys are the fields of the strategy that it names."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config import settings
from silofl.config.mistakes import either
from silofl.config.strategy_section import SECTIONS
from silofl.errors import ConfigError
from silofl.strategies.base import Strategy
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedprox import FedProx
from silofl.strategies.fedsgd import FedSGD
from silofl.strategies.registry import STRATEGIES, build
from silofl.strategies.scaffold import Scaffold

ROOT = Path(__file__).resolve().parents[2]


def parse(strategy: Any, **sections: Any) -> configuration.Config:
    return configuration.parse({"strategy": strategy, **sections})


def refused(strategy: Any, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(strategy, **sections)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("table", "strategy"),
    [
        ({}, FedAvg()),
        ({"momentum": 0.5}, FedAvg(momentum=0.5)),
        ({"name": "fedavg", "lr": 2}, FedAvg(lr=2.0)),
        ({"name": "fedsgd", "lr": 0.1, "momentum": 0.9}, FedSGD(0.1, 0.9)),
        ({"name": "fedprox"}, FedProx()),
        ({"name": "fedprox", "mu": 0}, FedProx(0.0)),
        ({"name": "scaffold", "lr": 0.5}, Scaffold(0.5)),
    ],
)
def test_a_table_means_a_strategy(table: dict[str, Any], strategy: Strategy) -> None:
    assert build(parse(table).strategy) == strategy


def test_without_a_table_it_is_fedavg_as_published() -> None:
    assert configuration.Config().strategy == configuration.parse({}).strategy
    assert build(configuration.parse({}).strategy) == FedAvg(1.0, 0.0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_written_and_read_again(tmp_path: Path, name: str) -> None:
    kind: Any = STRATEGIES[name]
    given = {one.name: one.default if isinstance(one.default, str | int) else 0.25 for one in fields(kind)}
    config = parse({"name": name, **given})
    text = configuration.dump(config)
    (tmp_path / "config.toml").write_text(text)
    again = configuration.load(tmp_path / "config.toml", ["run.name="])
    assert again == config
    assert build(again.strategy) == kind(**given)
    assert list(tomllib.loads(text)["strategy"]) == ["name", *(field.name for field in fields(kind))]
    assert configuration.digest(again) == configuration.digest(config)
    assert isinstance(again.strategy, configuration.StrategyConfig)


def test_a_key_may_be_set_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[strategy]\nname = "fedprox"\n')
    assert build(configuration.load(path, ["strategy.mu=0.25"]).strategy) == FedProx(0.25)
    both = configuration.load(path, ["strategy.name=scaffold", "strategy.lr=0.5"])
    assert build(both.strategy) == Scaffold(0.5)


def test_the_digest_and_the_first_difference_see_every_key() -> None:
    one, other, third = (
        parse(table)
        for table in ({"name": "fedprox"}, {"name": "fedprox", "mu": 0.2}, {"name": "scaffold", "lr": 0.1})
    )
    assert len({configuration.digest(config) for config in (one, other, third)}) == 3
    seen = configuration.first_difference(one, other.model_dump(mode="json"))
    assert seen == "strategy.mu is 0.1 here and 0.2 there"
    seen = configuration.first_difference(one, third.model_dump(mode="json"))
    assert seen == 'strategy.name is "fedprox" here and "scaffold" there'
    assert configuration.first_difference(one, one.model_dump(mode="json")) == ""
    assert configuration.resumption_tables(one)["strategy"] == {"name": "fedprox", "mu": 0.1}
    kept = configuration.LOCAL_KEYS | configuration.RESUMABLE_KEYS
    assert not [key for section, key in kept if section == "strategy"]


def with_key(key: str) -> str:
    return either([name for name, section in SECTIONS.items() if key in section.model_fields])


WITH_MOMENTUM, WITH_MU = with_key("momentum"), with_key("mu")


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"name": "fedprox", "mux": 1.0}, "unknown key strategy.mux: did you mean strategy.mu?"),
        ({"name": "scaffold", "lrr": 1.0}, "unknown key strategy.lrr: did you mean strategy.lr?"),
        ({"momentun": 0.5}, "unknown key strategy.momentun: did you mean strategy.momentum?"),
        (
            {"name": "fedavg", "mu": 1.0},
            f"strategy.mu is a key of {WITH_MU} and strategy.name is 'fedavg', which has name, lr, momentum: "
            f"remove it, or set strategy.name to {WITH_MU}",
        ),
        (
            {"name": "scaffold", "momentum": 0.5},
            f"strategy.momentum is a key of {WITH_MOMENTUM} and strategy.name is 'scaffold', which has "
            f"name, lr, option: remove it, or set strategy.name to {WITH_MOMENTUM}",
        ),
        (
            {"name": "fedprx"},
            f"strategy.name = 'fedprx' is not allowed: it should be {either([*STRATEGIES])}; did you mean "
            "'fedprox'?",
        ),
        ({"name": "fedprox", "mu": "x"}, "strategy.mu = 'x' is not allowed: it should be a valid number"),
        (
            {"name": "scaffold", "lr": 0},
            "strategy.lr = 0 is not allowed: it should be greater than 0",
        ),
        ({"momentum": 1.0}, "strategy.momentum = 1.0 is not allowed: it should be less than 1"),
        (3, "strategy = 3 is not allowed: it should be a valid dictionary or instance of StrategyConfig"),
    ],
)
def test_what_is_wrong_is_one_sentence(table: Any, sentence: str) -> None:
    assert refused(table) == sentence


@pytest.mark.parametrize("name", [3, ["fedavg"], {"x": 1}, True])
def test_a_name_that_is_no_word_is_refused(name: Any) -> None:
    assert refused({"name": name}).startswith(
        f"strategy.name = {name!r} is not allowed: it should be {either([*STRATEGIES])}"
    )


def test_other_sections_are_refused_as_before() -> None:
    for tables, sentence in (
        ({"trian": {}}, "unknown section trian: did you mean train?"),
        ({"train": {"lrr": 1}}, "unknown key train.lrr: did you mean train.lr?"),
        ({"data": {"label": "y"}}, "unknown key data.label: did you mean data.target?"),
        ({"data": {"lable_column": "y"}}, "unknown key data.lable_column: did you mean data.target?"),
        ({"data": {"patient": "id"}}, "unknown key data.patient: did you mean data.owner_column?"),
        ({"data": {"batch_size": 8}}, "unknown key data.batch_size: did you mean train.batch_size?"),
        ({"run": {"num_rounds": 8}}, "unknown key run.num_rounds: did you mean run.rounds?"),
        ({"train": {"rounds": 8}}, "unknown key train.rounds: did you mean run.rounds?"),
        ({"train": {"lr": -1}}, "train.lr = -1 is not allowed: it should be greater than 0"),
        ({"train": {"epochs": 1, "steps": 2}}, "train.epochs and train.steps are both set; keep one"),
    ):
        with pytest.raises(ConfigError) as caught:
            configuration.parse(tables)
        assert str(caught.value) == sentence


@pytest.mark.parametrize("path", sorted(ROOT.glob("launch/*.toml")), ids=lambda path: path.name)
def test_the_recipes_can_be_read(path: Path) -> None:
    config = settings.load(path).of(0)
    assert config.run.name == path.stem
    assert configuration.parse(tomllib.loads(configuration.dump(config))) == config
