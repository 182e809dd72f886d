"""What clients within silos do not go with is refused by a sentence, and what does nothing, too."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config.clients_section import ClientsConfig
from silofl.errors import ConfigError

SOME = {"per_silo": 8}
CLIENT = {"unit": "client", "noise_multiplier": 1.0}


def refused(**sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        configuration.parse(sections)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"clients": {"per_round": 3}},
            "clients.per_round set and no silo has clients: set clients.per_silo or",
        ),
        ({"clients": {"batched": True, "alpha": 1.0}}, "set and no silo has clients"),
        ({"clients": {"per_silo": 3, "split": "owner"}}, "by which each person is a client: remove one"),
        ({"clients": SOME | {"alpha": 0.1}}, 'clients.split = "iid" reads none: remove it'),
        ({"clients": {"per_silo": 3, "per_round": 4}}, "is more than clients.per_silo = 3"),
        ({"privacy": CLIENT}, 'and silos have none: set clients.per_silo or clients.split = "owner", or'),
        ({"clients": SOME, "privacy": CLIENT | {"unit": "example"}}, 'set privacy.unit = "client"'),
        ({"clients": SOME | {"per_round": 2}, "privacy": CLIENT}, "set privacy.sample_rate instead"),
        ({"clients": SOME | {"batched": True}, "privacy": CLIENT}, "remove clients.batched"),
        (
            {
                "clients": SOME,
                "topology": {"name": "gossip", "algorithm": "gradient_tracking"},
                "secure": {"protocol": "plain"},
            },
            'set topology.algorithm = "dpsgd", or',
        ),
        (
            {"clients": SOME | {"split": "dirichlet"}, "privacy": CLIENT | {"neighbours": "replace-one"}},
            "would deal to several",
        ),
        (
            {"clients": SOME, "privacy": CLIENT | {"neighbours": "add-remove", "records": 9}},
            'set clients.split = "owner"',
        ),
        (
            {"clients": {"split": "owner"}, "privacy": CLIENT | {"neighbours": "add-remove"}},
            "set privacy.records to how many training clients all silos are expected to have",
        ),
        ({"clients": SOME, "privacy": CLIENT | {"clip_quantile": 0.5}}, "privacy.clip_quantile follows"),
        ({"clients": SOME, "privacy": CLIENT | {"bands": 2}}, "clients are in rounds by coins"),
        (
            {"clients": SOME, "privacy": CLIENT | {"clipping": "hooks"}},
            "whose updates are clipped as a whole",
        ),
        ({"clients": SOME, "privacy": CLIENT, "run": {"participation": 0.5}}, "lower privacy.sample_rate"),
        ({"clients": SOME, "personal": {"name": "ditto"}}, "remove [personal], or [clients]"),
        ({"clients": SOME, "train": {"keep_optimizer": True}}, "carries one optimizer on"),
        ({"clients": SOME, "train": {"seconds": 2.0}}, "set train.epochs or train.steps"),
        ({"clients": SOME, "train": {"precision": "float16"}}, 'set "bfloat16" or "full"'),
        ({"clients": SOME, "train": {"ranks_per_silo": 2}}, "set it to 1"),
        ({"clients": SOME, "train": {"batch_norm": "local"}}, "keeps statistics of the silo's own"),
    ],
)
def test_a_contradiction_is_one_sentence_with_the_remedy(sections: dict[str, Any], said: str) -> None:
    assert said in refused(**sections)


STATEFUL = ("scaffold", "feddyn", "fednova", "moon", "qfedavg", "fedexp", "ifca", "fedpm", "fedsgd")
ALONE = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedprox", "diloco")


@pytest.mark.parametrize("name", STATEFUL)
def test_strategies_with_a_part_in_a_whole_silo_are_refused(name: str) -> None:
    layer = {"layer": "0"} if name == "moon" else {}
    assert "has a part of its own in a whole silo's work" in refused(
        clients=SOME, strategy={"name": name} | layer
    )


@pytest.mark.parametrize("name", ALONE)
def test_those_that_mean_updates_alone_are_not(name: str) -> None:
    train = {"steps": 2} if name == "diloco" else {}
    assert configuration.parse({"clients": SOME, "strategy": {"name": name}, "train": train}).clients.active


def test_what_is_written_down_is_the_same_again() -> None:
    for clients in (
        {},
        SOME,
        {"split": "owner", "per_round": 2},
        SOME | {"split": "dirichlet", "alpha": 2.0},
    ):
        config = configuration.parse({"clients": clients})

        assert configuration.parse(tomllib.loads(configuration.dump(config))) == config
    private = configuration.parse({"clients": SOME, "privacy": CLIENT, "secure": {"protocol": "secagg"}})
    assert configuration.parse(tomllib.loads(configuration.dump(private))) == private
    assert ClientsConfig().idle == ("per_silo", "per_round", "split", "alpha", "batched")


def test_other_names_are_understood() -> None:
    assert "did you mean clients.per_silo" in refused(clients={"clients_per_silo": 3})
    assert "did you mean clients?" in refused(virtual_clients={"per_silo": 3})
