"""One Slurm for all tests of this folder, and jobs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ONE_THREAD, ROOT
from tests.slurm.cluster import Cluster, why_not

JOB_TIMEOUT_S = 200.0

PACED = '''
import os
import time

from silofl.config import DataConfig, TaskConfig
from silofl.tasks.synthetic import Synthetic


class Paced(Synthetic):
    """synthetic(1, 1) that sleeps PACE seconds a batch, until its job is queued again."""

    def __init__(self):
        super().__init__(TaskConfig(model="linear"), DataConfig(), 1)

    def loss(self, model, batch):
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PACE", "0")))
        return super().loss(model, batch)
'''

CONFIG = """
[run]
rounds = 12
display = "plain"
[task]
factory = "paced:Paced"
[train]
epochs = 1
batch_size = 100000  # one batch a round
momentum = 0.9
[strategy]
momentum = 0.5
"""


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Slurm with munge, started here; skips with the reason where that cannot be."""
    reason = why_not()
    if reason:
        pytest.skip(f"no Slurm: {reason}")
    slurm = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


class Queue:
    """A user's folder with `paced.toml` and `slurm/`, and the jobs submitted from it."""

    def __init__(self, cluster: Cluster, folder: Path, python: str) -> None:
        self.cluster, self.folder, self._python = cluster, folder, python
        (folder / "paced.py").write_text(PACED)
        (folder / "paced.toml").write_text(CONFIG)
        (folder / "slurm").symlink_to(ROOT / "slurm")
        (folder / "launch").symlink_to(ROOT / "launch")

    def sbatch(self, *arguments: str, warm: bool = False, **env: str) -> str:
        """Submit as a user would, with silofl on PATH; the job's id. `warm`: nothing is loaded anew."""
        beside = Path(self._python if warm else sys.executable).parent
        path = f"{beside}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = (ONE_THREAD if warm else {}) | env
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            cwd=self.folder,
            env={**self.cluster.env, "PATH": path, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def info(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: JobState, ExitCode, Restarts and so on."""
        words = self.cluster.ask("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, job: str) -> dict[str, str]:
        """Wait until the job has left the queue, and return its info."""

        def gone() -> bool:
            return not self.cluster.ask("squeue", "-h", "-j", job)

        self.cluster.wait_until(f"job {job} ends", gone, JOB_TIMEOUT_S)
        return self.info(job)

    def output(self, job: str) -> str:
        """What the job has printed so far."""
        path = self.folder / f"slurm-{job}.out"
        return path.read_text() if path.exists() else ""

    def committed(self, run: str) -> list[int]:
        """The rounds whose manifests are in a run directory."""
        manifests = (self.folder / run / "checkpoints").glob("round-*/manifest.json")
        return sorted(int(path.parent.name[6:]) for path in manifests)

    def commits(self, job: str, run: str) -> None:
        """Wait until a job's run has committed a round."""

        def committed_or_gone() -> bool:
            return bool(self.committed(run)) or not self.cluster.ask("squeue", "-h", "-j", job)

        self.cluster.wait_until(f"job {job} commits a round", committed_or_gone, JOB_TIMEOUT_S)
        assert self.committed(run), self.output(job)

    def warn(self, job: str) -> None:
        """Send at once what Slurm sends before the time limit."""
        self.cluster.ask("scancel", "--batch", "--signal=USR1", job)

    def digest(self, run: str) -> str:
        """`model_sha256` of a finished run."""
        digest: str = json.loads((self.folder / run / "summary.json").read_text())["model_sha256"]
        return digest


@pytest.fixture(scope="module")
def queue(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, python: str) -> Queue:
    return Queue(cluster, tmp_path_factory.mktemp("user"), python)
