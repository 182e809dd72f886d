"""The exit status that ranks write for `silofl launch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl.launcher.exit_status import (
    EXIT_STATUS,
    mpi_ready_file,
    read_exit_status,
    spoken_exit_status,
    write_exit_status,
)
from tests.conftest import Start

PROGRAM = """
import sys, time
from silofl.comm import run_on_ranks

def body(comm, shutdown):
    if comm.rank == 1 and sys.argv[1] == "late":
        time.sleep(1.0)
        raise RuntimeError("after rank 0 is done")

sys.exit(run_on_ranks(body))
"""


@pytest.mark.parametrize("how", ["well", "late"])
def test_a_job_succeeds_only_when_all_ranks_have(start: Start, tmp_path: Path, how: str) -> None:
    path = tmp_path / "exit-status"
    command = ["-c", PROGRAM, how]
    end = start(2, ranks=[command, command], env={"SILOFL_EXIT_STATUS": str(path)}).wait()
    assert mpi_ready_file(path).exists()
    assert read_exit_status(path) == ((0, False) if how == "well" else None)
    assert (end.code == 0) == (how == "well")


def test_a_rank_of_another_host_tells_it_by_its_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "silofl-x7" / "exit-status"  # a folder of another host's
    monkeypatch.setenv(EXIT_STATUS, str(path))
    write_exit_status(75, stop_requested=True)
    line = capfd.readouterr().err.encode()
    assert spoken_exit_status(line, path) == (75, True)
    assert spoken_exit_status(b"what a rank printed without an end" + line, path) == (75, True)
    assert spoken_exit_status(line, tmp_path / "silofl-x8" / "exit-status") is None  # another job's
    assert spoken_exit_status(b"round 3\n", path) is None
    path.parent.mkdir()
    write_exit_status(0, stop_requested=False)
    assert (read_exit_status(path), capfd.readouterr().err) == ((0, False), "")
