"""Ranks on hosts with a network of their own between them: the same model, and silos that come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.on_hosts import silofl_there

MEGABITS = 1000.0
STEPS = ("train", "share", "collect first", "unmask", "allgather")


def on_hosts(hosts: Any, count: int, path: Path, *more: str) -> dict[str, Any]:
    """What a run of four silos on so many hosts, with as many slots, wrote as its summary.

    By `silofl launch`: mpirun itself may crash once all is done, see docs/failure.md.
    """
    words = ["launch", str(path.parent / "quick.toml"), "-n", "4", "--run", str(path), *more]
    with hosts.two_hosts(MEGABITS, count) as found:
        named = ",".join(f"{address}:{4 // count}" for address in found.addresses)
        done = silofl_there(hosts, found, *words, "--host", named, folder=path.parent)
    assert done.returncode == 0, done.stderr
    assert "restarting" not in done.stderr
    told: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return told


@pytest.fixture
def whole(start: Start, quick: Path, tmp_path: Path) -> dict[str, Any]:
    """What four silos on one host make."""
    one = start(4, "train", str(quick), "--run", "one").wait(100)
    assert one.code == 0, one.err[-2000:]
    found: dict[str, Any] = json.loads((tmp_path / "one" / "summary.json").read_text())
    return found


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("count", [2, 4])
def test_several_hosts_train_the_model_of_one(
    hosts: Any, whole: dict[str, Any], tmp_path: Path, count: int
) -> None:
    found = on_hosts(hosts, count, tmp_path / "several")
    assert found["model_sha256"] == whole["model_sha256"]
    assert found["bytes_sent_per_round"] > whole["bytes_sent_per_round"]  # no memory that all share


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("silo", range(4))
def test_a_killed_silo_comes_back_to_its_own_host(
    hosts: Any, whole: dict[str, Any], tmp_path: Path, silo: int
) -> None:
    for step in STEPS:
        path = tmp_path / step.replace(" ", "-")
        back = on_hosts(hosts, 2, path, "--set", f'failure.inject=["kill silo {silo} round 3 at {step}"]')
        assert back["failed"] == [[3, silo]]
        assert back["survivors"] == [0, 1, 2, 3]
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        back_s = max(one["seconds_by_phase"].get("rejoin", 0.0) for one in lines)
        print(f"silo {silo} at {step}: back after {back_s:.1f} s")  # for people: times are not asserted
        if step in ("unmask", "allgather"):  # its update was in the sum
            assert back["model_sha256"] == whole["model_sha256"]
