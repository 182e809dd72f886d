"""A real run whose silos have a disk each: one is lost whole, and the resumed run ends as if it were not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Finished, Start

SILOS = 3


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1])
def test_a_silo_without_its_run_directory_resumes_bit_for_bit(
    start: Start, quick: Path, tmp_path: Path, lost: int
) -> None:
    def finish(run: str, *more: str) -> Finished:
        line = ["-m", "silofl", "train", str(quick), *more, "--set", "checkpoint.buddy=true"]
        line += ["--set", f"checkpoint.key_file={tmp_path}/keys/{{silo}}.key"]
        ranks = [[*line, "--run", str(tmp_path / f"disk-{silo}" / run)] for silo in range(SILOS)]
        return start(SILOS, ranks=ranks).wait()

    assert finish("whole").code == 0
    assert finish("part", "--set", "run.rounds=4").code == 0
    shutil.rmtree(tmp_path / f"disk-{lost}" / "part")
    resumed = finish("part", "--resume")
    assert resumed.code == 0, resumed.err
    assert f"silo {lost} got its file of round 4 back from silo {lost + 1}" in resumed.out
    assert "from round 5" in resumed.out
    whole, part = (
        json.loads((tmp_path / "disk-0" / run / "summary.json").read_text()) for run in ("whole", "part")
    )
    assert part["model_sha256"] == whole["model_sha256"]
