"""Secret buckets among processes under the real launcher: a killed silo, and a resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Finished, Start

DIGITS = """
[run]
display = "plain"
rounds = 4
[task]
name = "digits"
model = "linear"
[train]
epochs = 2
batch_size = 16
lr = 0.1
[secure]
protocol = "secagg"
[robust]
name = "median"
f = 1
bucket = 3
[attack]
name = "sign_flip"
silos = [9]
scale = 10.0
[failure]
policy = "shrink"
"""
SILOS, LIMIT_S = 10, 280.0


def train(start: Start, folder: Path, *sets: str, resume: bool = False) -> Finished:
    folder.mkdir(exist_ok=True)
    path = folder / "config.toml"
    path.write_text(DIGITS)
    more = [word for one in sets for word in ("--set", one)]
    command = ["train", str(path), "--run", str(folder / "run"), *["--resume"] * resume, *more]
    return start(SILOS, *command, ulfm=True).wait(LIMIT_S)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_ten_ranks_go_on_without_a_killed_one_and_resume(start: Start, tmp_path: Path) -> None:
    """Silo 2 dies before keys are made: of nine there are three buckets anew."""
    fault = 'failure.inject=["kill silo 2 round 2 at train"]'
    end = train(start, tmp_path, fault, "run.rounds=3")
    assert end.code == 0, end.out + end.err
    end = train(start, tmp_path, resume=True)
    assert end.code == 0, end.out + end.err
    log = (tmp_path / "run" / "silo-0000" / "openings.jsonl").read_text().splitlines()
    opened = {one["round"]: one["buckets"] for one in map(json.loads, log[1:])}
    assert sorted(opened) == [1, 2, 3, 4]
    assert [sorted(map(len, opened[number])) for number in (1, 2, 3)] == [[3, 3, 4], [3, 3, 3], [3, 3, 3]]
    assert opened[2] == opened[3] != opened[1]
    assert opened[4] == opened[1]
    assert (
        json.loads((tmp_path / "run" / "summary.json").read_text())["accuracy"] > 0.3
    )  # the mean ends below 0.1
