"""`benchmarks/unlike_silos.py`: members are compared on equal seeds, none of which has chosen their keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from silofl.personal.registry import METHODS
from silofl.strategies.registry import STRATEGIES

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("unlike_silos")


def test_the_best_on_other_seeds_is_run_on_those_that_count(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, float, int]] = []

    def run(section: str, name: str, keys: Any, lr: float, seed: int) -> tuple[float, list[float]]:
        asked.append((keys["mu"], lr, seed))
        return keys["mu"] - abs(lr - 0.1), [lr] * study.SILOS

    monkeypatch.setattr(study, "run", run)
    found = study.measure("strategy", "fedprox", {"mu": (0.1, 0.5)}, 3, lambda _: None)
    assert (found.keys, found.lr, len(found.accuracies)) == ({"mu": 0.5}, 0.1, 3)
    counted = [one for one in asked if one[2] < study.FIRST_TUNING_SEED]
    assert counted == [(0.5, 0.1, seed) for seed in range(3)]


def test_margins_are_of_pairs_of_seeds(study: Any) -> None:
    base = study.Figure("strategy", "fedavg", 0.1, {}, [0.5, 0.6], [[0.4, 0.6], [0.6, 0.6]])
    other = study.Figure("personal", "ditto", 0.1, {}, [0.7, 0.5], [[0.8, 0.8], [0.5, 0.5]])
    assert study.margin(other, base, own=False) == pytest.approx([20, -10])
    assert study.margin(other, base, own=True) == pytest.approx([30, -10])


def test_what_is_measured_is_there(study: Any) -> None:
    assert set(study.STRATEGIES) <= set(STRATEGIES)
    assert set(study.METHODS) == set(METHODS) - {"none", "fedbn"}  # for the model has no batch normalization
    told = json.loads((FOLDER / "results" / "unlike-silos.json").read_text())["figures"]
    assert [one["name"] for one in told] == [*study.STRATEGIES, *study.METHODS]
    assert {len(one["accuracies"]) for one in told} == {5}
