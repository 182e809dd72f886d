"""Strategies and personal methods equal their references on real ranks, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Start
from tests.personal import on_ranks
from tests.personal.test_federated import bound_of


@pytest.mark.long
@pytest.mark.timeout(400)
def test_each_equals_its_paper_on_four_ranks(start: Start, tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT)}
    end = start(4, str(tmp_path / "runs"), module="tests.personal.on_ranks", env=env, cold=True).wait(360)
    assert end.code == 0, end.err[-2000:]
    told = [json.loads(line) for line in end.out.splitlines() if line.startswith("{")]
    assert len(told) == 4 * sum(len(cases) for _, cases in on_ranks.SETS)
    wrong = [one for one in told if one["error"] > bound_of(one["member"], 1e-9)]
    assert not wrong
