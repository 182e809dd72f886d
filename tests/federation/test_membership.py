"""What a run says beforehand about silos that die."""

from __future__ import annotations

from typing import Any

import pytest

from silofl.config import Config
from silofl.federation.membership import outlook


@pytest.mark.parametrize(
    ("failure", "secure", "silos", "words"),
    [
        ({}, {}, 4, ["respawn: ", "3 of 4 silos or more", "1 lost at a time", "started again"]),
        ({"policy": "shrink"}, {}, 9, ["shrink: ", "5 of 9", "2 lost at a time", "stays away"]),
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
    line = outlook(Config.model_validate({"failure": failure, "secure": secure}), silos)
    assert all(word in line for word in words), line
    assert "\n" not in line
