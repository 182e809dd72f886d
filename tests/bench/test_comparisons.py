"""`benchmarks/`: both sides of a comparison are measured alike, and a peer that is missing is told of."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def as_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_both_sides_make_the_mean_and_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    side_by_side: Any = __import__("side_by_side")

    class Plain:
        traffic = side_by_side.Traffic(4.0, 4.0)
        rounds = 0

        def round(self, updates: Sequence[Any]) -> Any:
            self.rounds += 1
            return np.mean(updates, axis=0)

    size, plain = 3 << 16, Plain()
    found = side_by_side.compare(side_by_side.updates_of(3, size), {"plain": plain}, 2)
    assert plain.rounds == 3  # the first is not timed
    assert all(len(times) == 2 and min(times) > 0 for times in found.seconds.values())
    assert max(found.errors.values()) < 1e-4
    for bits, name in side_by_side.SILOFL.items():
        least = 2 / 3 * bits / 8  # everybody's own slice stays
        assert least < found.traffic[name].up < least + 0.05  # keys and shares
        assert least <= found.traffic[name].down < least + 1e-3  # a word a piece says whether a rank failed
    side_by_side.show("three silos", found, {"plain": ">= 0"}, tmp_path / "out.json")
    assert "plain: 4.00 bytes a parameter from each silo" in capsys.readouterr().out
    told = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in told["rows"]] == [*side_by_side.SILOFL.values(), "plain"]


@pytest.mark.parametrize(("script", "library"), [("compare_flower", "flwr"), ("compare_tenseal", "tenseal")])
def test_a_peer_that_is_not_installed_is_told_in_a_sentence(
    script: str, library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / f"{script}.py"), run_name="__main__")
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "is not installed here: pip install" in told
    assert told.count("\n") == 1
