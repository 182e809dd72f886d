"""`pytest --groups`: every test runs once, in its own group's process, and one that fails fails the whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTS = """
import os
import pytest
import torch

LARGE = torch.rand(1 << 20)
torch.sort(LARGE)  # would leave threads of OpenMP behind, without which a fork waits for ever

@pytest.mark.ranks
def test_one():
    assert os.environ.get("FAILS") != "ranks"

@pytest.mark.kernels
@pytest.mark.ranks
def test_two():
    pass

def test_three(capfd):
    assert torch.get_num_threads() == 1  # groups share the cores
    torch.sort(LARGE)
    print("captured", flush=True)
    assert capfd.readouterr().out == "captured\\n"
    assert os.environ.get("FAILS") != "rest"
"""


@pytest.mark.long  # `make test` itself is the last
@pytest.mark.parametrize("fails", ["ranks", "rest", ""])
def test_every_test_runs_in_its_group(tmp_path: Path, fails: str) -> None:
    (tmp_path / "test_three_groups.py").write_text(TESTS)
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.groups", "--noconftest"]
    markers = ["-o", "markers=ranks\nkernels\nslurm", "--rootdir", str(tmp_path)]
    done = subprocess.run(
        [*line, *markers, "--groups=slurm,ranks,kernels,rest", str(tmp_path), "-q"],
        cwd=ROOT,
        env={"PATH": "", "FAILS": fails, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == bool(fails), done.stdout + done.stderr
    assert done.stdout.count("2 passed") == (fails != "ranks"), done.stdout
    assert done.stdout.count("1 passed") == (fails != "rest") + (fails == "ranks"), done.stdout
    assert ("FAILED" in done.stdout) == bool(fails)
