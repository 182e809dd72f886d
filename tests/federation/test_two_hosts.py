"""Ranks on hosts with a network of their own between them: the same model, and silos that come back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Start
from tests.on_hosts import silofl_there

MEGABITS = 1000.0
STEPS = ("train", "share", "collect first", "unmask", "allgather")


def on_hosts(hosts: Any, slots: Sequence[int], path: Path, *more: str, restarts: int = 0) -> dict[str, Any]:
    """What a run on hosts with so many slots each, all taken, wrote as its summary after so many restarts.

    By `silofl launch`: mpirun itself may crash once all is done, see docs/failure.md.
    """
    words = ["launch", str(path.parent / "quick.toml"), "-n", str(sum(slots)), "--run", str(path), *more]
    with hosts.two_hosts(MEGABITS, len(slots)) as found:
        named = ",".join(f"{address}:{one}" for address, one in zip(found.addresses, slots, strict=True))
        done = silofl_there(hosts, found, *words, "--host", named, folder=path.parent, timeout_s=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("restarting the job") == restarts, done.stderr
    return summary_of(path)


def summary_of(path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return told


@pytest.fixture
def on_one(start: Start, quick: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What so many silos on one host make, with more words on the command line."""

    def run(silos: int, *more: str) -> dict[str, Any]:
        one = start(silos, "train", str(quick), "--run", "one", *more, ulfm=bool(more)).wait(100)
        assert one.code == 0, one.err[-2000:]
        return summary_of(tmp_path / "one")

    return run


@pytest.fixture
def whole(on_one: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What four silos on one host make."""
    return on_one(4)


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("slots", [(2, 2), (1, 1, 1, 1), (2, 1, 1), (1, 2, 1), (3, 1), (1, 3)], ids=str)
def test_several_hosts_train_the_model_of_one(
    hosts: Any, whole: dict[str, Any], tmp_path: Path, slots: tuple[int, ...]
) -> None:
    found = on_hosts(hosts, slots, tmp_path / "several")
    assert found["model_sha256"] == whole["model_sha256"]
    assert found["bytes_sent_per_round"] > whole["bytes_sent_per_round"]  # no memory that all share


ODD = [(2, 2, 1), (3, 2), (1, 4)]
DEATHS = [("respawn", 1, "collect first"), ("respawn", 4, "unmask"), ("shrink", 4, "unmask")]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("slots", ODD, ids=str)
def test_five_silos_on_unequal_hosts(
    hosts: Any, on_one: Callable[..., dict[str, Any]], tmp_path: Path, slots: tuple[int, ...]
) -> None:
    found, whole = on_hosts(hosts, slots, tmp_path / "several"), on_one(5)
    assert found["model_sha256"] == whole["model_sha256"]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("policy", "silo", "step"), DEATHS)
def test_a_silo_dies_on_unequal_hosts(
    hosts: Any, on_one: Callable[..., dict[str, Any]], tmp_path: Path, policy: str, silo: int, step: str
) -> None:
    """It is missed in the same round as on one host, and comes back in the same."""
    fault = f'failure.inject=["kill silo {silo} round 2 at {step}"]'
    more = ["--set", fault, "--set", f"failure.policy={policy}"]
    found, whole = on_hosts(hosts, (3, 2), tmp_path / "several", *more), on_one(5, *more)
    assert found["failed"] == whole["failed"] == [[2, silo]]
    assert found["survivors"] == whole["survivors"]
    assert found["model_sha256"] == whole["model_sha256"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("silo", range(4))
def test_a_killed_silo_comes_back_to_its_own_host(
    hosts: Any, whole: dict[str, Any], tmp_path: Path, silo: int
) -> None:
    for step in STEPS:
        path = tmp_path / step.replace(" ", "-")
        fault = f'failure.inject=["kill silo {silo} round 3 at {step}"]'
        back = on_hosts(hosts, (2, 2), path, "--set", fault)
        assert back["failed"] == [[3, silo]]
        assert back["survivors"] == [0, 1, 2, 3]
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        back_s = max(one["seconds_by_phase"].get("rejoin", 0.0) for one in lines)
        print(f"silo {silo} at {step}: back after {back_s:.1f} s")  # for people: times are not asserted
        if step in ("unmask", "allgather"):  # its update was in the sum
            assert back["model_sha256"] == whole["model_sha256"]


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("second", [0, 3])
def test_a_second_silo_comes_back_by_a_restart(
    hosts: Any, whole: dict[str, Any], tmp_path: Path, second: int
) -> None:
    """On the host of the first that came back, and on the other."""
    faults = ", ".join(f'"kill silo {silo} round {at} at unmask"' for silo, at in ((1, 2), (second, 4)))
    more = ["--set", f"failure.inject=[{faults}]"]
    back = on_hosts(hosts, (2, 2), tmp_path / "several", *more, restarts=1)
    assert back["failed"] == [[2, 1], [4, second]]
    assert back["survivors"] == [0, 1, 2, 3]
    assert back["model_sha256"] == whole["model_sha256"]
