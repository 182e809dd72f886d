"""Ranks on two hosts with a network of their own between them: the same model, and silos that come back."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from silofl.comm.mpi_library import mpi_info
from silofl.launcher.environment import THREAD_VARIABLES
from tests.conftest import ROOT, Start

MEGABITS = 1000.0


def on_two_hosts(hosts: Any, path: Path, *more: str) -> dict[str, Any]:
    """What a run of two ranks on each of two hosts, with as many slots, wrote as its summary."""
    environ = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, "1") | {"OMPI_MCA_mpi_yield_when_idle": "1"}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    config = [str(path.parent / "quick.toml"), "--run", str(path), *more]
    argv = ["--with-ft", "ulfm", sys.executable, "-m", "silofl", "train", *config]
    with hosts.two_hosts(MEGABITS) as both:
        assert both.mpirun(mpi_info().launchers[0], 2, argv, environ, 150.0) == 0
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.timeout(400)
def test_two_hosts_train_the_model_of_one_also_when_a_silo_of_either_dies(
    hosts: Any, start: Start, quick: Path, tmp_path: Path
) -> None:
    one = start(4, "train", str(quick), "--run", "one").wait(100)
    assert one.code == 0, one.err[-2000:]
    expected = json.loads((tmp_path / "one" / "summary.json").read_text())
    whole = on_two_hosts(hosts, tmp_path / "two")
    assert whole["model_sha256"] == expected["model_sha256"]
    assert whole["bytes_sent_per_round"] > expected["bytes_sent_per_round"]  # no memory that all share
    for silo in (1, 3):  # which are not the first of their hosts
        fault = f'failure.inject=["kill silo {silo} round 3 at step"]'
        back = on_two_hosts(hosts, tmp_path / f"killed-{silo}", "--set", fault)
        assert back["failed"] == [[3, silo]]
        assert back["survivors"] == [0, 1, 2, 3]
        assert back["model_sha256"] == expected["model_sha256"]
