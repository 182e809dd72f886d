"""Strategies and personal methods equal their references on real ranks, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Start
from tests.personal import on_ranks
from tests.personal.test_federated import bound_of


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "names", [pytest.param([], marks=pytest.mark.long), ["scaffold", "apfl"]], ids=["all", "two"]
)
def test_each_equals_its_paper_on_four_ranks(start: Start, tmp_path: Path, names: list[str]) -> None:
    given = (str(tmp_path / "runs"), *names)
    env = {"PYTHONPATH": str(ROOT)}
    end = start(4, *given, module="tests.personal.on_ranks", env=env, cold=True).wait(360)
    assert end.code == 0, end.err[-2000:]
    told = [json.loads(line) for line in end.out.splitlines() if line.startswith("{")]
    cases = [table for _, members in on_ranks.SETS for table, _ in members]
    assert len(told) == 4 * sum(not names or table["name"] in names for table in cases)
    wrong = [one for one in told if one["error"] > bound_of(one["member"], 1e-9)]
    assert not wrong
