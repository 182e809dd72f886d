"""Compressed sums equal their references on real ranks, too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.campaigns import mostly_long
from tests.compression.test_federated import CASES
from tests.conftest import ROOT, Start


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("which", "runs"), mostly_long([("few", 2), ("all", len(CASES) + 3)], 0))
def test_each_equals_its_reference_on_four_ranks(start: Start, tmp_path: Path, which: str, runs: int) -> None:
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    end = start(
        4, str(tmp_path / "runs"), which, module="tests.compression.on_ranks", env=env, cold=True
    ).wait(150)
    assert end.code == 0, end.err[-2000:]
    told = [json.loads(line) for line in end.out.splitlines() if line.startswith("{")]
    assert len(told) == 4 * runs
    assert not [one for one in told if one["error"] > one["bound"]]
