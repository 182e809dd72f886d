"""What `silofl launch` does when its job loses too many silos, when it is asked to stop, and when it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns import mostly_long
from tests.conftest import ONE_THREAD, ROOT


def launch(python: str, folder: Path, name: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What `silofl launch` says, and the summary of the run that it names itself."""
    command = [python, "-m", "silofl", "launch", "-n", "3", str(ROOT / "launch/digits.toml")]
    settings = (f"run.name={name}", "run.rounds=4", "run.display=plain", *options)
    command += [part for setting in settings for part in ("--set", setting)]
    env = {**os.environ, **ONE_THREAD}
    end = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert end.returncode == 0, end.stdout + end.stderr
    return end.stderr, json.loads((folder / "runs" / name / "summary.json").read_text())


@pytest.mark.parametrize("compared", mostly_long([False, True], 0), ids=["alone", "with an undisturbed one"])
def test_a_job_that_lost_too_many_silos_is_started_again(python: str, tmp_path: Path, compared: bool) -> None:
    told, summary = launch(python, tmp_path, "lost", 'failure.inject=["kill silo 1 round 3 at collect"]')
    assert "injected fault: kill silo 1 in round 3" in told
    assert "2 of 3 silos are left and a round needs 3" in told
    assert "restarting the job from the last committed round (restart 1 of 3)" in told
    if compared:
        quiet, whole = launch(python, tmp_path, "whole")
        assert "starting" not in quiet
        assert summary["model_sha256"] == whole["model_sha256"]
    rounds = [json.loads(line) for line in (tmp_path / "runs/lost/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("number", "code", "cold"),
    mostly_long([(signal.SIGINT, 75, False), (signal.SIGTERM, 75, False), (signal.SIGKILL, -9, True)], 1),
)
def test_a_launch_is_asked_to_stop_or_dies(
    python: str, tmp_path: Path, number: signal.Signals, code: int, cold: bool
) -> None:
    """Its ranks end their round, or die with it; either way no process is left and the run goes on."""
    command = [sys.executable if cold else python, "-m", "silofl", "launch", "-n", "3"]
    command.append(str(ROOT / "launch/digits.toml"))
    command += ["--run", "run", "--set", "run.rounds=500", "--set", "run.display=plain"]
    job = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, **({} if cold else ONE_THREAD)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None
    while not job.stdout.readline().startswith("round   2/"):
        assert job.poll() is None
    job.send_signal(number)
    _, told = job.communicate(timeout=30)  # which waits for all who might print
    assert job.returncode == code
    assert ("--resume goes on" in told) == (code == 75)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) < 400
