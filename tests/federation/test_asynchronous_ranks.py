"""Asynchronous federations of processes under the real launcher: killed workers, resumes, returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import Finished, Start
from tests.federation.test_asynchronous import refuse_repeats
from tests.federation.threads import records

DIGITS = """
[run]
display = "plain"
rounds = 8
[task]
name = "digits"
[topology]
name = "asynchronous"
buffer = 3
[checkpoint]
keep = 20
[failure]
policy = "shrink"
silent_s = 6
"""
DECLARED = "topology.seconds=[1.0, 1.1, 1.2, 2.7]"
"""Arrivals in virtual time: a run is the same bit for bit whenever it is repeated."""
LIMIT_S = 150.0


def train(start: Start, folder: Path, *sets: str, ulfm: bool = True, resume: bool = False) -> Finished:
    folder.mkdir(exist_ok=True)
    path = folder / "config.toml"
    path.write_text(DIGITS)
    more = [word for one in sets for word in ("--set", one)]
    command = ["train", str(path), "--run", str(folder / "run"), *["--resume"] * resume, *more]
    return start(4, *command, ulfm=ulfm).wait(LIMIT_S)


def counted(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, of all rounds, in which no update is twice."""
    lines = records(folder / "run")
    assert [line["round"] for line in lines] == list(range(1, 9))
    refuse_repeats(lines)
    return lines


def model(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "run" / "model.safetensors")


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("step", ["train", "collect first", "agree", "step", "between rounds"])
@pytest.mark.parametrize("silo", [0, 2])
def test_others_go_on_when_a_worker_is_killed(start: Start, tmp_path: Path, silo: int, step: str) -> None:
    """Also the first of them, which tells of the run."""
    end = train(start, tmp_path, f'failure.inject=["kill silo {silo} round 3 at {step}"]')
    assert end.code == 0, end.out + end.err
    lines = counted(tmp_path)
    assert [one for line in lines for one in line["failed"]] == [silo]
    assert all(silo not in line["survivors"] and len(line["survivors"]) == 3 for line in lines[4:])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["train", "collect first", "agree", "step", "between rounds"])
def test_a_job_without_recovery_resumes_bit_for_bit(start: Start, tmp_path: Path, step: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(start, whole, DECLARED, ulfm=False).code == 0
    fault = f'failure.inject=["kill silo 1 round 5 at {step}"]'
    assert train(start, cut, DECLARED, fault, ulfm=False).code != 0
    assert train(start, cut, DECLARED, ulfm=False, resume=True).code == 0
    assert [line["staleness"] for line in counted(cut)] == [line["staleness"] for line in counted(whole)]
    for name, values in model(whole).items():
        np.testing.assert_array_equal(model(cut)[name], values)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_worker_that_is_respawned_rejoins(start: Start, tmp_path: Path) -> None:
    more = ['failure.inject=["kill silo 3 round 2 at train"]', "failure.policy=respawn", "run.rounds=40"]
    end = train(start, tmp_path, *more)
    assert end.code in (0, 137), end.out + end.err
    lines = records(tmp_path / "run")
    assert len(lines) == 40
    assert any(line["rejoined"] == [3] for line in lines)
    assert refuse_repeats(lines)[3] > 2
