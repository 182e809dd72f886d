"""Compressed sums equal their references on real ranks, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.campaigns import mostly_long
from tests.compression import on_ranks
from tests.compression.test_federated import CASES
from tests.conftest import Start


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize(("which", "runs"), mostly_long([("few", 2), ("all", len(CASES) + 3)], 0))
def test_each_equals_its_reference_on_four_ranks(start: Start, tmp_path: Path, which: str, runs: int) -> None:
    program = [str(Path(on_ranks.__file__)), str(tmp_path / "runs"), which]
    end = start(4, ranks=[program] * 4).wait(150)
    assert end.code == 0, end.err[-2000:]
    told = [json.loads(line) for line in end.out.splitlines() if line.startswith("{")]
    assert len(told) == 4 * runs
    assert not [one for one in told if one["error"] > one["bound"]]
