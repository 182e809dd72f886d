"""Ranks of a silo as processes: the model of one rank, and they end as their silo does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.errors import EXIT_BAD_INPUT, EXIT_RESUMABLE
from silofl.federation.dry_run import dry_run
from tests.conftest import Finished, Start
from tests.federation.threads import records

TASK = '''
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData

OTHER = "silofl.federation.rank_of_silo" in sys.orig_argv


class Dying:
    """Other ranks do what is named, once they have trained so many steps."""

    def __init__(self, what, silo=1, steps=6):
        self.what, self.silo, self.steps = what, silo, steps

    def model(self):
        return nn.Linear(3, 1)

    def data(self, silo, silos):
        self.own = silo
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(silo))
        return SiloData(TensorDataset(x, x.sum(1, keepdim=True)))

    def loss(self, model, batch):
        x, y = batch
        if OTHER and self.own == self.silo and model.training and torch.is_grad_enabled():
            self.steps -= 1
            if self.steps == 0 and not Path("done").exists():
                self.act()
        if self.what == "long":
            time.sleep(0.02)
        return (model(x) - y).square().mean()

    def metrics(self, model, batch):
        return {"loss": self.loss(model, batch)}

    def act(self):
        Path("done").touch()
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.what == "raise":
            raise ValueError("a value of the data")
'''
RUN = """
[run]
rounds = 5
display = "plain"
[task]
factory = "own:Dying"
options = {what = "nothing"}
[train]
epochs = 1
batch_size = 20
lr = 0.01
momentum = 0.5
[secure]
protocol = "plain"
[failure]
rejoin_s = 40
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(TASK)
    (tmp_path / "own.toml").write_text(RUN)
    return tmp_path


def line(run: str, what: str = "nothing", *settings: str, ranks: int = 2) -> list[str]:
    told = [f"train.ranks_per_silo={ranks}", f'task.options={{what = "{what}"}}', *settings]
    return ["train", "own.toml", "--run", run, *(word for one in told for word in ("--set", one))]


def left(folder: Path) -> list[str]:
    """Ranks of silos that a job in this folder has left behind, in 5 s."""
    deadline = time.monotonic() + 5
    while (found := others(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [str(pid) for pid in found]


def others(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"silofl.federation.rank_of_silo" in words and (entry / "cwd").resolve() == folder:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def ended(job: Finished, folder: Path, code: int = 0) -> str:
    said = job.out + job.err
    assert job.code == code, said
    assert "Traceback" not in said
    assert not left(folder)
    return said


def model(folder: Path, run: str) -> np.ndarray:
    arrays = load_file(folder / run / "model.safetensors")
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def test_the_model_of_one_rank_and_a_resume_with_another_number(start: Start, own: Path) -> None:
    ended(start(2, *line("one", ranks=1)).wait(), own)
    ended(start(2, *line("two", "nothing", "run.rounds=2")).wait(), own)
    ended(start(2, *line("two", ranks=1), "--resume").wait(), own)
    np.testing.assert_allclose(model(own, "two"), model(own, "one"), rtol=1e-5)


def test_a_rank_that_dies_is_its_silos_death_and_comes_back_with_it(start: Start, own: Path) -> None:
    """As a silo of one rank that dies in the same round."""
    said = ended(start(3, *line("two", "kill"), ulfm=True).wait(), own)
    assert "silofl: silo 1: rank 1 of it has ended, and the silo with it" in said
    fault = 'failure.inject=["kill silo 1 round 3 at train"]'
    ended(start(3, *line("one", "nothing", fault, ranks=1), ulfm=True).wait(), own)
    ways = [[(one["failed"], one["rejoined"]) for one in records(own / run)] for run in ("two", "one")]
    assert ways[0] == ways[1]
    np.testing.assert_allclose(model(own, "two"), model(own, "one"), rtol=1e-5)


@pytest.mark.long
def test_what_a_rank_raises_is_told_as_of_its_silo(start: Start, own: Path) -> None:
    said = ended(start(2, *line("run", "raise")).wait(), own, EXIT_BAD_INPUT)
    sentences = [one for one in said.splitlines() if "loss()" in one]
    assert len(sentences) == 1, said
    assert "silo 1, its rank 1: the task's loss() raised ValueError at own.py:" in sentences[0]
    traceback = own / "run" / "traceback-silo-0001.txt"
    assert "a value of the data" in traceback.read_text()


@pytest.mark.long
@pytest.mark.parametrize("cold", [False, True])
def test_nothing_outlives_the_first_rank(start: Start, own: Path, cold: bool) -> None:
    """Killed as a queue kills it: the job ends, and so does the rank that it started."""
    job = start(2, *line("run", "long", "run.rounds=1000"), cold=cold)
    deadline = time.monotonic() + 60
    while not (own / "run/metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    ranks = others(own)
    assert len(ranks) >= 2
    parent = int(Path(f"/proc/{ranks[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    ended(job.wait(60), own, EXIT_RESUMABLE)


@pytest.mark.long
def test_a_silo_whose_rank_stands_still_ends_within_its_bound(start: Start, own: Path) -> None:
    said = ended(start(2, *line("run", "stop", "failure.silent_s=3")).wait(60), own, EXIT_RESUMABLE)
    assert "silo 1" in said


def test_what_check_says_of_them() -> None:
    tables: dict[str, Any] = {
        "task": {"name": "synthetic", "model": "linear"},
        "train": {"ranks_per_silo": 3},
    }
    note = "each silo trains with 3 ranks, each on its part of every batch"
    assert note in dry_run(configuration.parse(tables), 2).notes
    tables["train"] = {"ranks_per_silo": 1}
    assert not any("ranks" in one for one in dry_run(configuration.parse(tables), 2).notes)


PROGRAM = """
import silofl
from silofl import config

if __name__ == "__main__":
    try:
        silofl.train(config.parse({"train": {"ranks_per_silo": 2}}), Dying("nothing"))
    except silofl.errors.ConfigError as error:
        print(error.exit_code, error)
"""


@pytest.mark.long
def test_a_task_of_the_program_itself_is_refused(start: Start, own: Path) -> None:
    (own / "program.py").write_text(TASK + PROGRAM)
    end = start(1, ranks=[["program.py"]]).wait()
    assert "2 silo 0: train.ranks_per_silo is more than 1 and the task Dying cannot be given to" in end.out, (
        end
    )
    assert "its class is in the program that was started" in end.out
