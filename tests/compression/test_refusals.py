"""What [compress] does not go with, what does nothing, and bits that are too few for so many silos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.dry_run import dry_run
from silofl.federation.secure_conflicts import refuse_conflicts
from tests.compression.test_federated import federate, settings

NOISE = {"unit": "silo", "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"compress": {"bits": 3}}, r"compress\.bits = 3 is not allowed"),
        ({"compress": {"name": "random_k", "ratio": 0}}, r"compress\.ratio = 0 is not allowed"),
        ({"compress": {"name": "random_k", "ratio": 1.5}}, r"compress\.ratio = 1\.5 is not allowed"),
        ({"compress": {"name": "random_k", "ratio": 1}}, r"compress\.ratio = 1 is not allowed"),
        ({"compress": {"name": "randomk"}}, r"compress\.name = 'randomk'.*random_k"),
        ({"compress": {"ratio": 0.1}}, r"compress\.ratio"),
        ({"compress": {"name": "top_k", "bits": 8}}, r'"top_k" has a packet of each silo\'s own: remove'),
        ({"compress": {"name": "qsgd", "levels": 64}}, r"compress\.levels = 64 is not allowed"),
        (
            {"compress": {"bits": 8, "error_feedback": True}, "strategy": {"name": "ifca"}},
            r'"ifca" has silos go from one .* may have left: remove compress\.error_feedback',
        ),
        (
            {"compress": {"name": "powersgd"}, "strategy": {"name": "ifca"}},
            r'"ifca" has silos go .* may have left: remove compress\.name',
        ),
        ({"compress": {"rotation": True}}, r"compress\.bits is unset: set it, such as to 4"),
        ({"compress": {"error_feedback": True}}, r"nothing is compressed: set compress\.bits or"),
        (
            {"compress": {"bits": 32}},
            r"compress\.bits = 32 is more than secure\.bits = 16, in whose words .* lower the first",
        ),
        (
            {"compress": {"bits": 8}, "privacy": NOISE},
            r"compress\.bits = 8, and the grid of the noise has the ring's bits, secure\.bits = 16: remove",
        ),
        (
            {"compress": {"bits": 8}, "secure": {"range": 1.0}},
            r"compress\.bits = 8 agrees on ranges in every round, and secure\.range = 1 would be another",
        ),
    ],
    ids=str,
)
def test_it_is_refused_as_it_is_read(sections: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        configuration.parse(sections)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"compress": {"bits": 8}, "secure": {"protocol": "plain"}},
            r'secure\.protocol = "plain" adds floats up: set secure\.protocol = "secagg" or "additive"',
        ),
        (
            {"compress": {"name": "top_k"}},
            r'"top_k" makes a packet of each silo.* set compress\.name = "random_k", or compress\.bits',
        ),
        (
            {"compress": {"bits": 8}, "secure": {"rounding": "stochastic"}},
            r'secure\.rounding = "stochastic" does nothing under \[compress\]',
        ),
    ],
    ids=str,
)
def test_what_its_sum_is_not_is_refused(sections: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        refuse_conflicts(configuration.parse(sections))


def test_check_says_what_is_compressed() -> None:
    compress = {"name": "random_k", "ratio": 0.25, "bits": 8, "error_feedback": True}
    found = dry_run(configuration.parse({"compress": compress, "task": {"name": "synthetic"}}), 4)
    said = "secagg, compressed: random_k (ratio = 0.25), 8 bits a value, error feedback; every silo takes"
    assert found.protocol.startswith(said)
    assert found.steps.startswith("each slice's sum is opened, too, by 1 other silo")


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("bits", "feedback", "silos", "told"),
    [
        (2, False, 4, r"4 silos do not fit compress\.bits = 2: .* 4 of 1 levels; use compress\.bits = 4"),
        (4, False, 7, r"7 silos do not fit compress\.bits = 4: .* 7 of 7 levels; use compress\.bits = 8"),
        (4, True, 7, r"7 silos do not fit compress\.bits = 4: .* 7 of 7 levels; use compress\.bits = 8"),
        (1, True, 3, r"3 silos do not fit compress\.bits = 1: .* 3 of 0 levels; use compress\.bits = 4"),
    ],
)
def test_bits_that_overflow_are_refused_with_the_numbers(
    tmp_path: Path, bits: int, feedback: bool, silos: int, told: str
) -> None:
    config = settings(tmp_path, {"bits": bits, "error_feedback": feedback}, {"protocol": "secagg"})
    with pytest.raises(ConfigError, match=told):
        dry_run(config.model_copy(update={"task": configuration.parse({}).task}), silos)
    if silos == 4:
        with pytest.raises(ConfigError, match=told):
            federate(config)
