"""Three silos, of whom one dies: too few for a secure sum, and the run ends as if nobody had died."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def launch(folder: Path, name: str, *options: str) -> tuple[str, dict[str, Any]]:
    """What `silofl launch` says, and the summary of the run that it names itself."""
    command = [sys.executable, "-m", "silofl", "launch", "-n", "3", str(ROOT / "launch/digits.toml")]
    settings = (f"run.name={name}", "run.rounds=4", "run.display=plain", *options)
    command += [part for setting in settings for part in ("--set", setting)]
    end = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert end.returncode == 0, end.stdout + end.stderr
    return end.stderr, json.loads((folder / "runs" / name / "summary.json").read_text())


def test_a_job_that_lost_too_many_silos_is_started_again(tmp_path: Path) -> None:
    told, summary = launch(tmp_path, "lost", 'failure.inject=["kill silo 1 round 3 at collect"]')
    assert "rehearsal: kill silo 1 in round 3" in told
    assert "2 of 3 silos are left and a round needs 3" in told
    assert "starting the job again from the last committed round (1 of 3 times)" in told
    quiet, whole = launch(tmp_path, "whole")
    assert "starting" not in quiet
    assert summary["model_sha256"] == whole["model_sha256"]
    rounds = [json.loads(line) for line in (tmp_path / "runs/lost/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in rounds] == [1, 2, 3, 4]
