"""Ranks that fail under a real `mpirun --with-ft ulfm`: the survivors go on, and respawned ranks rejoin."""

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import ONE_THREAD, Job, launcher

SUPERVISE = (
    "import sys; from silofl.launcher.job_supervisor import supervise; sys.exit(supervise(sys.argv[1:]).code)"
)
PROGRAM = str(Path(__file__).with_name("recovery_program.py"))


pytestmark = pytest.mark.ranks


@pytest.fixture
def run(python, tmp_path):
    return lambda mode, n: run_program(python, mode, n, tmp_path)


def run_program(python, mode, n, folder, *, supervised=True):
    """The line that every rank printed, sorted; the job succeeds, by the exit code of mpirun or as told."""
    line, _ = launcher("openmpi", n, ulfm=True)
    command = [*line, python, PROGRAM, mode]
    env = {**os.environ, **ONE_THREAD}
    supervisor = [sys.executable, "-c", SUPERVISE] if supervised else []
    job = Job([*supervisor, *command], folder, env).wait(
        100
    )  # longer than a rank waits for others at its end
    assert job.code == 0, job.err[-2000:]
    assert "silofl: " not in job.err
    assert not supervised or "NBC_Progress" not in job.err
    return sorted(line for line in job.out.splitlines() if line.startswith("rank "))


@pytest.mark.long
def test_ranks_fail_one_after_another(run):
    assert run("one_after_another", 6) == [
        f"rank {rank} [15, 13, 12] [(2,), (0,), (1,)]" for rank in (3, 4, 5)
    ]


@pytest.mark.long
def test_two_ranks_fail_at_once(run):
    assert run("two_at_once", 5) == [f"rank {rank} 5" for rank in (0, 2, 3)]


def test_a_failure_ends_waits_of_other_threads_and_keeps_shared_memory(run):
    assert run("a_thread_waits", 4) == [f"rank {rank} [True] [7, 8, 9, 10]" for rank in range(3)]


@pytest.mark.long
def test_ranks_respawned_from_a_cold_start_rejoin(tmp_path):
    expected = [f"rank {rank} of (0, 1, 2, 3, 4) 10 4" for rank in range(5)]
    assert run_program(sys.executable, "rejoins", 5, tmp_path) == expected


def test_the_launcher_takes_no_end_of_a_rejoined_rank_for_a_failure(tmp_path):
    """Its MPI_Finalize waits for ever here: mpirun's own exit code is 0 all the same."""
    lines = run_program(sys.executable, "rejoins_and_waits_for_ever", 4, tmp_path, supervised=False)
    assert len(lines) == 4


@pytest.mark.long
def test_a_rejoined_rank_fails_again_after_cold_starts(tmp_path):
    lines = run_program(sys.executable, "fails_again", 5, tmp_path)
    assert [line for line in lines if " of " not in line] == [f"rank {rank} 8" for rank in (0, 1, 3, 4)]


def test_survivors_go_on_without_a_rank_that_does_not_rejoin_in_time(run):
    assert run("does_not_rejoin", 3) == [f"rank {rank} None 1" for rank in (0, 1)]


def test_survivors_go_on_without_a_rank_that_one_of_them_refuses(run):
    lines = run("is_refused", 3)
    assert lines == [
        *[f"rank {rank} None rank 1 refuses 2 1" for rank in (0, 1)],
        "rank 2 hears: rank 1 refuses 2",
    ]
