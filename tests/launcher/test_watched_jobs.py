"""A job without ULFM in which a rank fails: one line, exit code 75, and no process is left."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from silofl.errors import EXIT_RESUMABLE
from tests.conftest import MPICH, Job, Start, descendants
from tests.launcher.test_watchdog import alive

VENDORS = [
    "openmpi",
    pytest.param(
        "mpich",
        marks=[
            pytest.mark.long,
            pytest.mark.skipif(not MPICH.exists(), reason="needs MPICH in .venv/mpich"),
        ],
    ),
]


def committed(run: Path) -> list[int]:
    return sorted(int(path.parent.name[6:]) for path in run.glob("checkpoints/round-*/manifest.json"))


def signal_rank(job: Job, rank: int, number: int) -> list[int]:
    """A signal to a rank's own process, not to its watchdog; returns every process of the job."""
    every = descendants(job.process.pid)
    names = {f"{name}={rank}".encode() for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")}
    mine = [pid for pid in every if names & set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))]
    (worker,) = [pid for pid in mine if Path(f"/proc/{pid}/comm").read_text() != "silofl-watchdog\n"]
    os.kill(worker, number)
    return every


def end_by(job: Job, run: Path, number: int) -> str:
    """Signal rank 1 in the middle of a run; the job's one sentence, once it has ended as it should."""
    while (committed(run) or [0])[-1] < 4 and job.process.poll() is None:
        time.sleep(0.01)
    if job.process.poll() is not None:
        pytest.fail(f"the job ended by itself\n{job.wait().err}")
    every = signal_rank(job, 1, number)
    began = time.monotonic()
    end = job.wait()
    assert time.monotonic() - began < 10
    assert end.code == EXIT_RESUMABLE, end.err
    assert not [pid for pid in every if alive(pid)]
    (sentence,) = [line for line in end.err.splitlines() if line.startswith("silofl: ")]
    return sentence


@pytest.mark.long
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_killed_silo_ends_the_job_with_one_line(
    start: Start, quick: Path, tmp_path: Path, vendor: str
) -> None:
    run = tmp_path / "run"
    more = ["--set", "run.rounds=100000"]
    job = start(2, "train", str(quick), "--run", "run", *more, vendor=vendor, cold=True)
    sentence = end_by(job, run, signal.SIGKILL)
    found = re.fullmatch(
        r"silofl: silo 1 \(rank 1\) was killed by SIGKILL in round \d+; "
        r"rounds up to (\d+) are certainly committed: start the same command with --resume",
        sentence,
    )
    assert found, sentence
    assert int(found[1]) <= committed(run)[-1]


@pytest.mark.long
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_stopped_silo_ends_the_job_with_one_line(
    start: Start, quick: Path, tmp_path: Path, vendor: str
) -> None:
    more = ["--set", "run.rounds=100000", "--set", "failure.silent_s=5"]
    job = start(3, "train", str(quick), "--run", "run", *more, vendor=vendor, cold=True)
    sentence = end_by(job, tmp_path / "run", signal.SIGSTOP)
    assert sentence.startswith("silofl: silo 1 (rank 1) was silent for 5 s in round ")
    assert "(stopped by a signal): killed; rounds up to " in sentence
