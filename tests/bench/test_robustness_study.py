"""`benchmarks/robustness_study.py`: what its tables say, what a file has is kept, and the docs' figures."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from silofl.attacks.registry import ATTACKS
from silofl.robust.registry import RULES

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("robustness_study")


def found_of(study: Any, rows: dict[str, dict[str, Any]], split: str = "dirichlet") -> dict[str, Any]:
    return {
        study.Case(rule, attack, 2, split, 0).key: value
        for rule, row in rows.items()
        for attack, value in row.items()
    }


def one(accuracy: float, backdoor: float = 0.0) -> dict[str, float]:
    return {"accuracy": accuracy, "backdoor": backdoor}


def test_a_table_says_what_the_mean_and_the_best_rule_lose(study: Any) -> None:
    diverged = {"error": "training diverged"}
    rows = {
        "none": {"none": one(0.9), "gaussian": one(0.1), "backdoor": one(0.8, 0.7), "not_a_number": diverged},
        "krum": {"none": one(0.8), "gaussian": one(0.8), "backdoor": one(0.8, 0.1), "not_a_number": one(0.8)},
        "krum + mix": {
            "none": one(0.9),
            "gaussian": one(0.88),
            "backdoor": one(0.87, 0.2),
            "not_a_number": one(0.89),
        },
    }
    shown = study.table(found_of(study, rows), 2, "dirichlet", 1)
    assert list(shown) == ["none", "krum", "krum + mix"]
    assert study.collapsed(shown) == ["gaussian", "not_a_number"]
    assert study.most_lost(shown) == pytest.approx({"krum + mix": 3, "krum": 10, "none": 100})
    assert study.least_lost(shown) == pytest.approx({"gaussian": 2, "backdoor": 3, "not_a_number": 1})
    lines = study.markdown(found_of(study, rows), 2, "dirichlet", 1).splitlines()
    assert "| mean | 90.0 | 80.0 | 10.0 | fails | 70.0 |" in lines
    assert lines[2] == "| rule | none | backdoor | gaussian | not_a_number | backdoor succeeds |"
    assert "bulyan needs 11 silos where 2 attack." in lines
    assert "The mean collapses under gaussian, not_a_number." in lines
    said = study.summary(found_of(study, rows), 2, "dirichlet", 1)
    assert said == "| dirichlet | 2 | `gaussian`, `not_a_number` | `krum + mix` | 3.0 | 3.0 |"


def test_what_a_file_has_is_not_measured_again(
    study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []

    def measure(case: Any, rounds: int) -> dict[str, float]:
        asked.append(case.key)
        return one(0.9)

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs: int, **_: Any) -> None:
            super().__init__(1)

    monkeypatch.setattr(study, "measure", measure)
    monkeypatch.setattr(study, "ProcessPoolExecutor", Pool)
    path = tmp_path / "figures.json"
    given = ["study", "--json", str(path), "--splits", "iid", "--attackers", "2", "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*given, "--rules", "none", "bulyan", "--attacks", "none", "alie"])
    study.main()
    assert asked == ["iid | 2 | none | none | 0", "iid | 2 | none | alie | 0"]  # 10 are too few for Bulyan
    asked.clear()
    monkeypatch.setattr(sys, "argv", [*given, "--rules", "none", "caf", "--attacks", "none", "alie"])
    study.main()
    assert asked == ["iid | 2 | caf | none | 0", "iid | 2 | caf | alie | 0"]


def test_the_backdoor_succeeds_where_a_patched_sample_is_taken_for_the_target(
    study: Any, tmp_path: Path
) -> None:
    weight = torch.zeros(10, 64)
    weight[0, -1], weight[1, 0] = 10.0, 1.0  # the last pixel means 0
    config = study.Case("none", "backdoor", 2, "iid", 0).config(str(tmp_path), 1)
    names = list(study.build(config).model().state_dict())
    save_file(dict(zip(names, [weight, torch.zeros(10)], strict=True)), tmp_path / "model.safetensors")
    assert study.backdoor_success(config, tmp_path / "model.safetensors") == 1.0
    save_file(dict(zip(names, [-weight, torch.zeros(10)], strict=True)), tmp_path / "model.safetensors")
    assert study.backdoor_success(config, tmp_path / "model.safetensors") == 0.0


def test_what_is_measured_is_every_rule_beside_every_attack(study: Any) -> None:
    found = json.loads((FOLDER / "results" / "robustness-study.json").read_text())["found"]
    keys = [key.split(" | ") for key in found]
    seeds, tables = 1 + max(int(key[-1]) for key in keys), {(key[0], int(key[1])) for key in keys}
    expected = {
        study.Case(rule, attack, attackers, split, seed).key
        for (split, attackers), seed in product(tables, range(seeds))
        for rule, attack in product(study.rules_of([*RULES], split), ATTACKS)
        if study.needs(rule, attackers) is None
    }
    assert set(found) == expected
    assert {split for split, _ in tables} == set(study.SPLITS)
    readme, page = (FOLDER / "README.md").read_text(), (ROOT / "docs" / "robustness.md").read_text()
    for split, attackers in tables:
        assert study.markdown(found, attackers, split, seeds) in readme
        assert study.summary(found, attackers, split, seeds) in page
        shown = study.table(found, attackers, split, seeds)
        assert len(study.collapsed(shown)) >= 3
        assert max(study.least_lost(shown).values()) <= 3
