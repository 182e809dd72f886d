"""What ranks tell `silofl launch` of the job's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl.launcher.exit_status import mpi_ready_file, read_exit_status
from tests.conftest import Start

PROGRAM = """
import sys, time
from silofl.comm import run_on_ranks

def body(comm, ending):
    if comm.rank == 1 and sys.argv[1] == "late":
        time.sleep(1.0)
        raise RuntimeError("after rank 0 is done")

sys.exit(run_on_ranks(body))
"""


@pytest.mark.parametrize("how", ["well", "late"])
def test_a_job_has_ended_well_once_all_have(start: Start, tmp_path: Path, how: str) -> None:
    note = tmp_path / "outcome"
    command = ["-c", PROGRAM, how]
    end = start(2, ranks=[command, command], env={"SILOFL_EXIT_STATUS": str(note)}).wait()
    assert mpi_ready_file(note).exists()
    assert read_exit_status(note) == ((0, False) if how == "well" else None)
    assert (end.code == 0) == (how == "well")
