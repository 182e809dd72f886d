"""Privacy that is written down and not there is refused; a key by another name becomes what is meant."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config.sections import PrivacyConfig
from silofl.errors import ConfigError

SILO = {"unit": "silo", "noise_multiplier": 1.0}
EXAMPLE = {"unit": "example", "noise_multiplier": 1.0, "place": "local"}
SET: dict[str, Any] = {
    name: field.default if field.default is not None else 0.5
    for name, field in PrivacyConfig.model_fields.items()
    if name not in ("unit", "rotate", "records", "records_per_patient")
} | {"rotate": False, "records": 100, "records_per_patient": 10}
"""Every key but the unit with a value, its default where it has one."""


def refused(**privacy: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        configuration.parse({"privacy": privacy})
    return str(caught.value)


@pytest.mark.parametrize("key", SET)
def test_no_key_is_set_in_a_run_without_privacy(key: str) -> None:
    """Not even to its default: who writes it down means to have it."""
    remedy = 'set privacy.unit to "example", "patient", "client" or "silo", or remove it'
    expected = f'privacy.{key} is set and privacy.unit is "none": {remedy}'
    assert refused(**{key: SET[key]}) == refused(**{key: SET[key], "unit": "none"}) == expected


def test_all_keys_that_do_nothing_are_named_at_once() -> None:
    told = refused(target_epsilon=3.0, delta=1e-5, place="local")
    assert told.startswith("privacy.place, privacy.target_epsilon and privacy.delta are set and ")
    assert told.endswith("or remove them")


def test_what_the_command_line_sets_is_set(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[run]\nrounds = 1\n")
    with pytest.raises(ConfigError, match=r'privacy\.target_epsilon is set and privacy\.unit is "none"'):
        configuration.load(path, ["privacy.target_epsilon=3"])
    assert configuration.load(path).privacy.unit == "none"


@pytest.mark.parametrize(
    ("privacy", "key"),
    [
        (SILO | {"sample_rate": 0.1}, "sample_rate"),
        (SILO | {"clipping": "ghost"}, "clipping"),
        (SILO | {"quantile_noise_multiplier": 4.0}, "quantile_noise_multiplier"),
        (EXAMPLE | {"quantile_noise_multiplier": 4.0}, "quantile_noise_multiplier"),
        (EXAMPLE | {"colluding": 1}, "colluding"),
        (EXAMPLE | {"dropouts": 0}, "dropouts"),
        (SILO | {"place": "central", "colluding": 1}, "colluding"),
        (EXAMPLE | {"rotate": False}, "rotate"),
        (SILO | {"mechanism": "skellam", "accountant": "pld"}, "accountant"),
    ],
)
def test_a_key_that_does_nothing_in_its_unit_or_place_is_refused(privacy: dict[str, Any], key: str) -> None:
    told = refused(**privacy)
    assert told.startswith(f"privacy.{key} is set and privacy.")
    assert told.endswith("remove it")
    assert configuration.parse({"privacy": {name: privacy[name] for name in privacy if name != key}})


@pytest.mark.parametrize(
    "privacy",
    [
        SILO | {"clip_quantile": 0.5, "quantile_noise_multiplier": 4.0},
        SILO | {"clip_quantile": 0.5, "place": "central", "colluding": 1, "dropouts": 1},
        SILO | {"mechanism": "skellam", "accountant": "rdp", "rotate": False},
    ],
)
def test_a_key_that_does_something_is_not(privacy: dict[str, Any]) -> None:
    assert configuration.parse({"privacy": privacy}).privacy.unit == "silo"


@pytest.mark.parametrize("privacy", [{}, SILO, EXAMPLE, SILO | {"mechanism": "skellam", "place": "central"}])
def test_what_is_written_down_of_a_run_is_its_configuration_again(privacy: dict[str, Any]) -> None:
    config = configuration.parse({"privacy": privacy})
    assert configuration.parse(tomllib.loads(configuration.dump(config))) == config


@pytest.mark.parametrize("key", ["epsilon", "eps", "epsilom", "Epsilon", "espilon", "privacy_budget"])
def test_epsilon_may_mean_two_things_and_both_are_named(key: str) -> None:
    told = refused(**{key: 3.0})
    assert told.startswith(f"unknown key privacy.{key}: did you mean privacy.target_epsilon (noise is made ")
    assert "or privacy.max_epsilon (the noise stays as it is, and the run ends before " in told


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("max_epsilom", "max_epsilon"),
        ("target_eps", "target_epsilon"),
        ("sigma", "noise_multiplier (standard deviation of the noise over privacy.clip_norm)"),
        ("noise_multipler", "noise_multiplier"),
        ("max_grad_norm", "clip_norm"),
        ("sampling_rate", "sample_rate"),
        ("enabled", "unit"),
        ("placement", "place"),
    ],
)
def test_a_key_by_another_name_is_corrected_to_what_is_meant(key: str, meant: str) -> None:
    assert refused(**{key: 1.0}) == f"unknown key privacy.{key}: did you mean privacy.{meant}?"
