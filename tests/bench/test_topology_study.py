"""`benchmarks/topology_study.py`: its rows, what they are held to, and that the page says what it found."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from silofl.topologies.registry import TOPOLOGIES

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("topology_study")


@pytest.fixture
def saved() -> Any:
    return json.loads((FOLDER / "results" / "topology-study.json").read_text())


@pytest.fixture
def found(study: Any, saved: Any) -> Any:
    return {key: [study.Figure(**one) for one in each] for key, each in saved["figures"].items()}


def test_every_topology_is_in_it(study: Any, saved: Any) -> None:
    names = {given.get("topology", {}).get("name", "sharded") for given in study.TOPOLOGIES.values()}
    assert names == set(TOPOLOGIES)
    keys = {case.key for case in study.CASES}
    assert set(saved["figures"]) == set(saved["traffic"]) == keys
    assert {len(each) for each in saved["figures"].values()} == {saved["seeds"]} == {5}


def test_none_is_more_than_two_points_behind(study: Any, found: Any) -> None:
    """Mean over seeds, also where a silo dies half-way; neighbours on a ring might be four behind."""
    for case in study.CASES:
        assert statistics.fmean(study.behind(found, case)) <= 2.0, case.key


def test_one_server_and_groups_are_the_serverless_model(study: Any, found: Any) -> None:
    for topology in ("star", "hierarchical, 2 groups of 4"):
        for protocol in study.PROTOCOLS:
            assert study.behind(found, study.Case(topology, protocol, "none")) == [0.0] * 5


def test_the_page_has_its_table(study: Any, found: Any, saved: Any) -> None:
    page = (FOLDER / "README.md").read_text()
    for line in study.markdown(found, saved["traffic"], saved["timed"]):
        assert line in page


def test_what_is_behind_is_of_equal_seeds(study: Any) -> None:
    case, base = (study.Case(name, "plain", "none") for name in ("star", study.SERVERLESS))
    figures = {
        base.key: [study.Figure(0.5, 0.0, 1.0), study.Figure(0.7, 0.0, 1.0)],
        case.key: [study.Figure(0.4, 0.0, 1.0), study.Figure(0.8, 0.0, 1.0)],
    }
    assert study.behind(figures, case) == pytest.approx([10, -10])
