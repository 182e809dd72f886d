"""Real jobs of other kinds: chained, by srun, under MPICH, on two nodes with GPUs, sweeps, benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import MPICH
from tests.slurm.cluster import NODES
from tests.slurm.conftest import JOB_TIMEOUT_S, Queue

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * JOB_TIMEOUT_S)]

TRAIN = "slurm/train.sbatch"
THREE = "--ntasks=3"
WITH_MPICH = {"MPI4PY_LIBMPI": str(MPICH / "lib" / "libmpi.so.12")}

SEEING = """
import os
from pathlib import Path

from paced import Paced


class Seeing(Paced):
    def data(self, silo, silos):
        seen = [os.environ["SLURMD_NODENAME"], os.environ.get("CUDA_VISIBLE_DEVICES", "none")]
        Path(f"seen-{silo}").write_text(" ".join(seen))
        return super().data(silo, silos)
"""


@pytest.fixture(scope="module")
def reference(queue: Queue) -> str:
    """The digest of the uninterrupted run."""
    job = queue.sbatch(THREE, TRAIN, "paced.toml", "whole")
    assert queue.ended(job)["JobState"] == "COMPLETED", queue.output(job)
    return queue.digest("whole")


def submit(queue: Queue, *arguments: str, **env: str) -> str:
    """The id of a job of `silofl submit`."""
    done = subprocess.run(
        [sys.executable, "-m", "silofl", "submit", *arguments],
        cwd=queue.folder,
        env={**queue.cluster.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("job ")


def test_chained_jobs_train_the_model_of_one_long_job(queue: Queue, reference: str) -> None:
    """Where a site lets no job be queued again, the next one of a chain goes on with the same run."""
    first = queue.sbatch(THREE, "--no-requeue", TRAIN, "paced.toml", "chain", PACE="2")
    second = queue.sbatch(THREE, f"--dependency=afterany:{first}", TRAIN, "paced.toml", "chain")
    queue.commits(first, "chain")
    queue.warn(first)
    end = queue.ended(first)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "75:0", "0")
    newest = queue.committed("chain")[-1]
    assert newest < 12
    assert queue.ended(second)["JobState"] == "COMPLETED", queue.output(second)
    assert f"from round {newest + 1}" in queue.output(second)
    assert queue.digest("chain") == reference


@pytest.mark.parametrize(
    ("mpi", "env"),
    [("", WITH_MPICH), ("pmi2", WITH_MPICH), ("pmix", {})],
    ids=["mpirun of MPICH", "srun --mpi=pmi2 with MPICH", "srun --mpi=pmix with Open MPI"],
)
def test_other_ways_to_start_ranks(queue: Queue, reference: str, mpi: str, env: dict[str, str]) -> None:
    run = f"started-by-{mpi or 'mpiexec'}"
    more = ["--mpi", mpi] if mpi else []
    job = submit(queue, "paced.toml", "--silos", "3", "--run", run, *more, PACE="2", **env)
    queue.commits(job, run)
    queue.warn(job)
    end = queue.ended(job)
    assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1"), queue.output(job)
    assert queue.digest(run) == reference


ONE, TWO = NODES
DEALT = [f"{ONE} 0,1", f"{ONE} 0,1", f"{TWO} 0,1", f"{TWO} 0,1"]


@pytest.mark.parametrize(
    ("nodes", "mpi", "env", "seen"),
    [
        (2, "", {}, DEALT),
        (2, "", WITH_MPICH, DEALT),
        (2, "pmi2", WITH_MPICH, [f"{ONE} 0", f"{ONE} 1", f"{TWO} 0", f"{TWO} 1"]),
        (1, "pmix", {}, [f"{ONE} 0", f"{ONE} 1"]),
    ],
    ids=[
        "mpirun of Open MPI",
        "mpirun of MPICH",
        "srun --mpi=pmi2 with MPICH",
        "srun --mpi=pmix with Open MPI",
    ],
)
def test_silos_are_dealt_over_nodes_and_gpus(
    queue: Queue, nodes: int, mpi: str, env: dict[str, str], seen: list[str]
) -> None:
    """A rank under mpirun sees all GPUs of its node, one of srun its own."""
    (queue.folder / "seeing.py").write_text(SEEING)
    choices = ["--silos", str(len(seen)), "--nodes", str(nodes), "--gpus", "--mpi", mpi]
    job = submit(queue, "paced.toml", "--set", "task.factory=seeing:Seeing", *choices, **env)
    assert queue.ended(job)["JobState"] == "COMPLETED", queue.output(job)
    found = [queue.folder / f"seen-{silo}" for silo in range(len(seen))]
    assert [path.read_text() for path in found] == seen
    for path in found:
        path.unlink()


def test_an_array_trains_a_run_for_every_line(queue: Queue) -> None:
    (queue.folder / "rates.txt").write_text("train.lr=0.1\ntrain.lr=0.2 run.rounds=3\n")
    job = queue.sbatch(THREE, "--array=1-2", "slurm/array.sbatch", "rates.txt", "paced.toml", PACE="2")
    runs = [f"runs/rates-{job}/{number}" for number in (1, 2)]
    queue.commits(f"{job}_1", runs[0])
    queue.warn(f"{job}_1")
    for number, rounds in ((1, 12), (2, 3)):
        end = queue.ended(f"{job}_{number}")
        assert (end["JobState"], end["Restarts"]) == ("COMPLETED", "1" if number == 1 else "0")
        assert queue.committed(runs[number - 1])[-1] == rounds
    assert queue.digest(runs[0]) != queue.digest(runs[1])


def test_a_benchmark_leaves_its_figures(queue: Queue) -> None:
    job = queue.sbatch(THREE, "slurm/bench.sbatch", "--parameters", "1000", "--repeats", "1")
    assert queue.ended(job)["JobState"] == "COMPLETED", queue.output(job)
    figures = json.loads((queue.folder / f"bench-{job}.json").read_text())
    assert "3 ranks" in json.dumps(figures)


def test_a_job_that_cannot_start_says_so_and_is_not_queued_again(queue: Queue) -> None:
    job = queue.sbatch(THREE, TRAIN, "nowhere.toml")
    end = queue.ended(job)
    assert (end["JobState"], end["ExitCode"], end["Restarts"]) == ("FAILED", "2:0", "0")
    assert "nowhere.toml" in queue.output(job)
    assert not Path(queue.folder / "runs" / f"nowhere-{job}").exists()
