"""What a run says beforehand about silos that die."""

from __future__ import annotations

from typing import Any

import pytest

from silofl import config as configuration
from silofl.comm.elastic_group import RankFailure
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.federation.failure.policy import describe_policy, refuse_idle_faults, stop_reason


@pytest.mark.parametrize(
    ("failure", "secure", "silos", "words"),
    [
        ({}, {}, 4, ["respawn: ", "3 of 4 silos or more", "up to 1 failed at a time", "respawned"]),
        ({"policy": "shrink"}, {}, 9, ["shrink: ", "6 of 9", "up to 2 failed at a time", "stays away"]),
        ({"policy": "abort"}, {}, 9, ["abort: ", "exit code 75"]),
        ({}, {}, 3, ["ends the job", "a round needs 3 of 3"]),
        ({}, {"protocol": "plain"}, 3, ["respawn: ", "2 of 3"]),
        ({"min_silos": 4}, {}, 5, ["4 of 5"]),
        ({}, {"protocol": "additive"}, 8, ["ends the job", "additive"]),
        ({}, {"protocol": "plain"}, 1, ["ends the job", "1 of 1"]),
    ],
)
def test_the_outlook_names_policy_minimum_and_losses(
    failure: dict[str, Any], secure: dict[str, Any], silos: int, words: list[str]
) -> None:
    line = describe_policy(Config.model_validate({"failure": failure, "secure": secure}), silos)
    assert all(word in line for word in words), line
    assert "\n" not in line


@pytest.mark.parametrize("silos", [2, 3, 4, 5, 8])
def test_of_two_parts_of_a_cut_network_one_at_most_goes_on(silos: int) -> None:
    """Each takes the other for dead. On one host none is cut off: two are enough for a sum in the clear."""
    config = Config.model_validate({"failure": {"policy": "shrink"}, "secure": {"protocol": "plain"}})
    on_several, on_one = (stop_reason(config, silos, several_hosts=several) for several in (True, False))
    every = range(silos)
    for chosen in range(1, 2**silos - 1):
        part = tuple(silo for silo in every if chosen >> silo & 1)
        rest = tuple(silo for silo in every if silo not in part)
        stops = [
            on_several(RankFailure(lost, 0.0), left) is not None
            for left, lost in ((part, rest), (rest, part))
        ]
        assert any(stops), part
        assert (on_one(RankFailure(rest, 0.0), part) is None) == (len(part) >= 2)
        if len(part) > len(rest) or (len(part) == len(rest) and 0 in part):
            assert stops[0] == (len(part) < 2)


def test_a_run_with_an_audit_trail_ends_where_no_majority_is_left() -> None:
    tables = {"failure": {"policy": "shrink"}, "secure": {"protocol": "plain"}, "audit": {"trail": True}}
    config = Config.model_validate(tables)
    stops = stop_reason(config, 5)
    assert stops(RankFailure((3, 4), 0.0), (0, 1, 2)) is None
    assert "2 of 5 silos are left and audit.trail needs 3" in str(stops(RankFailure((2, 3, 4), 0.0), (0, 1)))
    assert "3 of 5 silos or more, up to 2 failed" in describe_policy(config, 5)


def test_a_fault_of_a_silo_that_is_not_there_is_refused() -> None:
    settings = configuration.parse({"failure": {"inject": ["kill silo 4 round 2 at train"]}})
    with pytest.raises(ConfigError, match=r"kill silo 4 .* the silos are 0 to 3") as refused:
        refuse_idle_faults(settings, 4)
    assert refused.value.rank == 0
    refuse_idle_faults(settings, 5)


def test_a_fault_after_the_last_round_is_refused() -> None:
    tables: dict[str, Any] = {"run": {"rounds": 6}, "failure": {"inject": ["kill silo 0 round 7 at train"]}}
    with pytest.raises(ConfigError, match=r"round 7 at train' and run\.rounds = 6: name one of them"):
        refuse_idle_faults(configuration.parse(tables), 5)
    tables["run"]["rounds"] = 7
    refuse_idle_faults(configuration.parse(tables), 5)
