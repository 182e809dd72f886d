"""Partial participation: federations of threads against the plain references, with the draws given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import mostly_long
from tests.strategies import naive
from tests.strategies.naive import SIZES
from tests.strategies.test_federated import CASES, FAULT, IDS, LENGTHS, compare, deaths, federate

__all__ = ["deaths"]

RATE, COUNT = {"participation": 0.5, "seed": 3}, {"silos_per_round": 2}
"""What [run] says."""
PLAIN = {"protocol": "plain"}
MASKED = [
    ({"protocol": "secagg", "bits": 32}, {"silos_per_round": 3}),
    ({"protocol": "additive", "bits": 32}, {"participation": 0.75}),
]


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


REMEMBER = pytest.mark.parametrize(("strategy", "reference"), mostly_long(CASES, 1, 4, 7, 8, 9, 14), ids=IDS)
"""In every run those whose silos or server remember most; all are in the clear without draws."""

TWO = pytest.mark.parametrize(("strategy", "reference"), mostly_long(CASES, 1, 5), ids=IDS)


def drawn(path: Path, rounds: int) -> list[tuple[int, ...]]:
    """The silos of each round, whose draws are not all alike."""
    found = [tuple(line["survivors"]) for line in lines(path)]
    assert len(found) == rounds
    assert len(set(found)) > 3
    assert len({silo for here in found for silo in here}) == len(SIZES)
    return found


@pytest.mark.covering(0)
@REMEMBER
@LENGTHS
def test_in_the_clear(tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int) -> None:
    """Those that are not drawn weigh nothing, and their states stay as they were."""
    model = federate(tmp_path, strategy, rounds=rounds, run=RATE, **PLAIN)
    compare(model, reference(naive.silos(), drawn(tmp_path, rounds)), 1e-9)


@pytest.mark.covering(0)
@TWO
@LENGTHS
def test_so_many_in_every_round(
    tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int
) -> None:
    model = federate(tmp_path, strategy, rounds=rounds, run=COUNT, **PLAIN)
    here = drawn(tmp_path, rounds)
    assert {len(silos) for silos in here} == {2}
    compare(model, reference(naive.silos(), here), 1e-9)


@pytest.mark.covering(0)
@TWO
@LENGTHS
@pytest.mark.parametrize(("secure", "run"), mostly_long(MASKED, 0))
def test_masked(
    tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int, secure: Any, run: Any
) -> None:
    model = federate(tmp_path, strategy, rounds=rounds, run=run, **secure)
    here = drawn(tmp_path, rounds)
    assert min(map(len, here)) == 3
    compare(model, reference(naive.silos(), here), 1e-5)


@pytest.mark.covering(0)
@TWO
@LENGTHS
@pytest.mark.usefixtures("deaths")
def test_a_silo_dies(tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int) -> None:
    model = federate(tmp_path, strategy, FAULT, rounds=rounds, run=RATE, **PLAIN)
    here = drawn(tmp_path, rounds)
    assert all(2 not in silos for silos in here[4:])
    assert any(2 in silos for silos in here[:4])
    compare(model, reference(naive.silos(), here), 1e-9)
