"""`benchmarks/compression_study.py`: rows are compared on equal seeds; an earlier file is gone on with."""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("compression_study")


def test_points_are_of_pairs_of_seeds_that_did_not_diverge(study: Any) -> None:
    base = study.Figure("base", {}, [0.9, 0.8, 0.7], [400, 400, 400])
    other = study.Figure("other", {}, [0.8, 0.0, 0.75], [100, 0, 100])
    assert study.behind(other, base) == pytest.approx([10, -5])
    assert study.fewer(other, base) == 4
    assert math.isnan(study.fewer(study.Figure("none", {}, [0.0], [0]), base))


def test_what_a_file_has_is_not_measured_again(
    study: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, float, int]] = []

    def run(sections: Any, lr: float, seed: int) -> tuple[float, int]:
        asked.append((sections, lr, seed))
        return 1 - abs(lr - 0.05), 10

    class Pool(ThreadPoolExecutor):
        def __init__(self, jobs: int, **_: Any) -> None:
            super().__init__(1)

    monkeypatch.setattr(study, "run", run)
    monkeypatch.setattr(study, "ProcessPoolExecutor", Pool)
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["study", "--json", str(path), "--seeds", "2", "--only"])
    study.main()
    tuning = [({}, lr, seed) for lr in study.RATES for seed in study.TUNING_SEEDS]
    first = [*study.ROWS.values()][:2]
    assert asked == tuning + [(one, 0.05, seed) for one in first for seed in range(2)]
    asked.clear()
    first_names = [*study.ROWS][:2]
    monkeypatch.setattr(sys, "argv", ["study", "--json", str(path), "--seeds", "2", "--only", "4 bits"])
    study.main()
    assert asked == [({"compress": {"bits": 4}}, 0.05, seed) for seed in range(2)]
    assert [one["name"] for one in json.loads(path.read_text())["figures"]] == [*first_names, "4 bits"]


def test_what_is_measured_is_there(study: Any) -> None:
    told = json.loads((FOLDER / "results" / "compression-study.json").read_text())
    assert {one["name"]: one["sections"] for one in told["figures"]} == study.ROWS
    assert {len(one["accuracies"]) for one in told["figures"]} == {5}
