"""`silofl strategies` lists all that six sections may name, and what is true of each."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from silofl.attacks.registry import ATTACKS
from silofl.compression.registry import CODECS
from silofl.config.listing import listing
from silofl.errors import ConfigError
from silofl.personal.registry import METHODS
from silofl.pruning.registry import RULES
from silofl.robust.registry import RULES as ROBUST
from silofl.strategies.registry import STRATEGIES

MEMBERS = {**STRATEGIES, **METHODS, **CODECS, **RULES, **ROBUST, **ATTACKS}


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_is_told_with_its_keys_and_what_they_mean(name: str) -> None:
    lines = listing(name)
    assert f'  name = "{name}"' in lines
    for field in fields(MEMBERS[name]):  # type: ignore[arg-type]
        told = next(line for line in lines if line.strip().startswith(f"{field.name} = "))
        assert len(told.split("=", 1)[1].split()) > 1, "a key without a word on it"


def test_what_goes_with_privacy_is_what_a_configuration_takes() -> None:
    said = {name: next(line for line in listing(name) if "with [privacy]" in line) for name in MEMBERS}
    assert "unit example (place local) and unit silo (place local, distributed, central)" in said["fedavg"]
    assert "unit example (place distributed, central)" in said["fedsgd"]
    assert "unit silo" not in said["scaffold"]
    assert said["fedexp"].endswith("refused")
    assert said["ditto"].endswith("refused")


def test_what_rules_and_attacks_ask_for_is_what_they_state() -> None:
    assert "2 f + 3 silos at least; looks at whole updates" in "\n".join(listing("krum"))
    assert "f + 1 silos at least; looks at whole" in "\n".join(listing("root_trust"))
    assert "4 f + 3 silos at least" in "\n".join(listing("bulyan"))
    backdoor = "changes the attacker's training data and sends another update than was learnt"
    assert backdoor in "\n".join(listing("backdoor"))


@pytest.mark.long
def test_the_command_lists_all_and_names_what_it_does_not_know() -> None:
    run = [sys.executable, "-m", "silofl", "strategies"]
    whole = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True).stdout
    assert all(f'name = "{name}"' in whole for name in MEMBERS)
    wrong = subprocess.run([*run, "dito"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2
    assert "'dito' is no strategy, personal method, codec, rule or attack" in wrong.stderr
    assert len(wrong.stderr.strip().splitlines()) == 1
    with pytest.raises(ConfigError):
        listing("dito")
