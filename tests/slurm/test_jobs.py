"""Real jobs: one that runs through, one that its time limit interrupts, one that is cancelled; one model."""

from __future__ import annotations

import re

import pytest

from silofl.launcher.jobs.options import Job
from silofl.launcher.jobs.slurm import job_text
from tests.slurm.conftest import JOB_TIMEOUT_S, Queue

pytestmark = pytest.mark.timeout(3 * JOB_TIMEOUT_S)

TRAIN = "slurm/train.sbatch"
TWO = "--ntasks=2"
SHORT = ["--time=1", "--signal=B:USR1@10"]  # Slurm looks twice a minute: the warning comes after 20 to 50 s
TOO_SLOW = "5.5"  # seconds a round: twelve rounds do not fit in one minute


@pytest.fixture(scope="module")
def jobs(queue: Queue) -> dict[str, str]:
    """Two jobs that are submitted together: most of their time they wait.

    One starts cold: the scheduler's signals do not reach forks of another process.
    """
    return {
        "whole": queue.sbatch(TWO, TRAIN, "paced.toml", "whole", warm=True),
        "limited": queue.sbatch(TWO, *SHORT, TRAIN, "paced.toml", "limited", PACE=TOO_SLOW),
    }


@pytest.fixture(scope="module")
def reference(queue: Queue, jobs: dict[str, str]) -> str:
    """The digest of the uninterrupted run."""
    end = queue.ended(jobs["whole"])
    assert end["JobState"] == "COMPLETED", queue.output(jobs["whole"])
    return queue.digest("whole")


@pytest.mark.long
def test_a_cancelled_job_leaves_a_run_that_another_job_finishes(queue: Queue, reference: str) -> None:
    job = queue.sbatch(TWO, TRAIN, "paced.toml", "cancelled", PACE="2")  # cold, for the signals
    queue.commits(job, "cancelled")
    queue.cluster.ask("scancel", job)
    end = queue.ended(job)
    assert (end["JobState"], end["Restarts"]) == ("CANCELLED", "0")
    newest = queue.committed("cancelled")[-1]
    assert newest < 12
    second = queue.sbatch(TWO, TRAIN, "paced.toml", "cancelled", warm=True)
    assert queue.ended(second)["JobState"] == "COMPLETED", queue.output(second)
    assert f"from round {newest + 1}" in queue.output(second)
    assert queue.digest("cancelled") == reference


def test_a_time_limit_shorter_than_the_work_changes_nothing(
    queue: Queue, jobs: dict[str, str], reference: str
) -> None:
    end = queue.ended(jobs["limited"])
    printed = queue.output(jobs["limited"])
    assert end["JobState"] == "COMPLETED", printed
    assert int(end["Restarts"]) >= 1
    stopped = re.search(r"stopped as asked after round (\d+)", printed)
    assert stopped is not None
    assert f"from round {int(stopped[1]) + 1}" in printed
    assert queue.digest("limited") == reference


def test_slurm_takes_the_options_of_submit(queue: Queue) -> None:
    """The job's program does nothing: what is asked for, and what stands before the start, is looked at."""
    job = Job(
        silos=2,
        nodes=2,
        time="5",
        mem="10M",
        output="told/%x-%j.txt",
        sbatch=["comment=mine", "job-name=other"],
        prologue=['echo "before $SLURM_JOB_NUM_NODES"'],
        program=["echo"],
    )
    (queue.folder / "told").mkdir()
    (queue.folder / "options.sbatch").write_text(job_text(job))
    number = queue.sbatch("options.sbatch")
    end = queue.ended(number)
    assert (end["JobState"], end["JobName"], end["Comment"]) == ("COMPLETED", "other", "mine")
    assert (end["MinMemoryNode"], end["NumNodes"]) == ("10M", "2")
    told = (queue.folder / f"told/other-{number}.txt").read_text().splitlines()
    assert told[0] == "before 2"
    assert told[1].startswith("launch --restarts 0 -n 2 launch/digits.toml --run runs/digits-")
