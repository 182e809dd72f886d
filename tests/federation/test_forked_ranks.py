"""Federations whose ranks are forks: the same bytes as of ranks that load everything themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from silofl.launcher.zygote.stub import VARIABLE

TASK = """
import os
from pathlib import Path
import torch
from torch.utils.data import TensorDataset
from silofl.launcher.zygote import standing
from silofl.tasks.base import SiloData

class Own:
    def model(self):
        return torch.nn.Linear(3, 1)

    def data(self, silo, silos):
        told = f"{standing.stub() is not None} {'SILOFL_RESPAWNED' in os.environ} {torch.initial_seed()}"
        with Path("forks.txt").open("a") as file:
            print(told, file=file)
        x = torch.randn(40, 3, generator=torch.Generator().manual_seed(silo))
        return SiloData(TensorDataset(x, x.sum(1, keepdim=True)))

    def loss(self, model, batch):
        x, y = batch
        return (model(x) - y).square().mean()

    def metrics(self, model, batch):
        return {"error": (self.loss(model, batch).item(), len(batch[0]))}
"""


def launch(folder: Path, *more: str, **environ: str) -> tuple[int, str]:
    line = [sys.executable, "-m", "silofl", "launch", *more]
    env = {**os.environ, **environ}
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=150, check=False)
    return done.returncode, done.stdout + done.stderr


def digest(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["model_sha256"])


@pytest.mark.long
@pytest.mark.parametrize("threads", ["1", "2"])
def test_forks_compute_the_same_bits(tmp_path: Path, threads: str) -> None:
    (tmp_path / "case.toml").write_text('[run]\nrounds = 3\n[task]\nname = "digits"\nmodel = "cnn"\n')
    for name, zygote in (("forks", ""), ("cold", "0")):
        environ = {"OMP_NUM_THREADS": threads, VARIABLE: zygote}
        code, told = launch(tmp_path, "case.toml", "-n", "3", "--run", name, **environ)
        assert code == 0, told
    assert digest(tmp_path / "forks") == digest(tmp_path / "cold")


@pytest.mark.long
def test_a_silo_that_is_killed_comes_back_as_a_fork_with_random_numbers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(TASK)
    (tmp_path / "case.toml").write_text(
        '[run]\nrounds = 4\n[task]\nfactory = "own:Own"\n[train]\nepochs = 1\n'
        '[failure]\ninject = ["kill silo 1 round 2 at collect"]\n'
    )
    code, told = launch(tmp_path, "case.toml", "-n", "4", "--run", "run")
    assert code == 0, told
    lines = [line.split() for line in (tmp_path / "forks.txt").read_text().splitlines()]
    assert sorted(line[:2] for line in lines) == [["True", "False"]] * 4 + [["True", "True"]], told
    assert len({line[2] for line in lines}) == 5, "every process has random numbers of its own"
    assert "silo 1 rejoined" in told


WRAPPER = """
import os, sys
os.write(1, b"wrapped\\n")
from silofl.launcher.zygote import stub
stub.take_place = lambda: os.write(1, b"taken\\n")
{more}
sys.argv = ["silofl", "train", "nothing.toml"]
{run}
"""


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("more", "run", "taken"),
    [
        ("", "import runpy; runpy._run_module_as_main('silofl')", True),
        ("", "from silofl.__main__ import main; main()", False),
        ("sys.settrace(lambda *a: None)", "import runpy; runpy._run_module_as_main('silofl')", False),
    ],
)
def test_a_program_around_the_command_is_not_forked_away(
    tmp_path: Path, more: str, run: str, taken: bool
) -> None:
    ranks = {
        f"OMPI_COMM_WORLD_{name}": number
        for name, number in (("RANK", "0"), ("SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "1"))
    }
    done = subprocess.run(
        [sys.executable, "-c", WRAPPER.format(more=more, run=run)],
        env={**os.environ, **ranks},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "wrapped" in done.stdout
    assert ("taken" in done.stdout) is taken, done.stderr
