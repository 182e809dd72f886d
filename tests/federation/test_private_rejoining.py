"""A private run of real ranks, in which silos die and are started again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ONE_THREAD, ROOT


@pytest.mark.long
def test_a_silo_that_is_started_again_goes_on_with_noise_and_ledger(tmp_path: Path, python: str) -> None:
    """Real ranks: one is killed before its words are in the sum, a later one after they are."""
    faults = '["kill silo 2 round 3 at collect", "kill silo 3 round 6 at reveal"]'
    command = [python, "-m", "silofl", "launch", "-n", "4", str(ROOT / "launch/private.toml")]
    command += ["--run", "run", "--set", "run.rounds=8", "--set", f"failure.inject={faults}"]
    command += ["--set", f"checkpoint.key_file={tmp_path}/key-{{silo}}"]
    env = {**os.environ, **ONE_THREAD}
    end = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110, check=False
    )
    assert end.returncode == 0, end.stdout + end.stderr
    text = (tmp_path / "run/metrics.jsonl").read_text()
    rounds = [json.loads(line) for line in text.splitlines()]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    missed = sum(2 not in line["survivors"] for line in rounds)
    assert [line["round"] for line in rounds] == list(range(1, 9))
    assert sorted(silo for line in rounds for silo in line["failed"]) == [2, 3]
    assert sorted(silo for line in rounds for silo in line["rejoined"]) == [2, 3]
    assert missed >= 1
    spent = summary["epsilon_per_silo"]
    assert spent[0] == spent[1] == spent[3] == summary["epsilon"] > 3.0  # one round had less noise
    assert spent[2] < spent[0]
