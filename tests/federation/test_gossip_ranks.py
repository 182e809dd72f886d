"""Gossip among processes under the real launcher: killed neighbours, resumes, returns, many ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import silofl
from silofl.federation.rundir import OWN_MODEL, stem
from tests.campaigns import mostly_long
from tests.conftest import Finished, Start

DIGITS = """
[run]
display = "plain"
rounds = 6
[task]
name = "digits"
[topology]
name = "gossip"
[checkpoint]
keep = 10
[failure]
policy = "shrink"
silent_s = 6
"""
LIMIT_S = 150.0


def train(
    start: Start, folder: Path, silos: int, *sets: str, ulfm: bool = True, resume: bool = False
) -> Finished:
    folder.mkdir(exist_ok=True)
    path = folder / "config.toml"
    path.write_text(DIGITS)
    more = [word for one in sets for word in ("--set", one)]
    command = ["train", str(path), "--run", str(folder / "run"), *["--resume"] * resume, *more]
    return start(silos, *command, ulfm=ulfm).wait(LIMIT_S)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def own(folder: Path, silo: int) -> dict[str, np.ndarray]:
    return load_file(folder / "run" / stem(silo) / OWN_MODEL)


MASKED = ["train", "collect first", "reveal", "evaluate", "checkpoint agree"]
CLEAR = ["train", "collect first", "step", "evaluate", "checkpoint agree"]
KILLS = [*(("secagg", step) for step in MASKED), *(("plain", step) for step in CLEAR)]


@pytest.mark.timeout(200)
@pytest.mark.covering(0)
@pytest.mark.parametrize(("protocol", "step"), mostly_long(KILLS, 1), ids=str)
def test_a_killed_neighbour_is_gone_around(start: Start, tmp_path: Path, protocol: str, step: str) -> None:
    fault = f'failure.inject=["kill silo 2 round 3 at {step}"]'
    end = train(start, tmp_path, 5, fault, f"secure.protocol={protocol}")
    assert end.code == 0, end.out + end.err
    told = lines(tmp_path)
    assert [line["round"] for line in told] == [1, 2, 3, 4, 5, 6]
    assert told[-1]["survivors"] == [0, 1, 3, 4]
    assert np.isfinite(told[-1]["neighbour_disagreement"])
    assert all(np.isfinite(values).all() for silo in (0, 1, 3, 4) for values in own(tmp_path, silo).values())


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_job_without_recovery_resumes_bit_for_bit(start: Start, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(start, whole, 4, ulfm=False).code == 0
    assert train(start, cut, 4, 'failure.inject=["kill silo 1 round 4 at reveal"]', ulfm=False).code != 0
    assert train(start, cut, 4, ulfm=False, resume=True).code == 0
    for silo in range(4):
        for name, values in own(whole, silo).items():
            np.testing.assert_array_equal(own(cut, silo)[name], values)


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_silo_that_is_respawned_rejoins(start: Start, tmp_path: Path) -> None:
    more = ['failure.inject=["kill silo 2 round 2 at collect"]', "failure.policy=respawn", "run.rounds=40"]
    end = train(start, tmp_path, 4, *more)
    assert end.code in (0, 137), end.out + end.err
    told = lines(tmp_path)
    assert len(told) == 40
    assert any(line["rejoined"] == [2] for line in told)
    assert told[-1]["survivors"] == [0, 1, 2, 3]


GRAPHS = ["torus", "exponential", "one_peer_exponential", "random_regular", "erdos_renyi", "complete"]
WAYS: list[tuple[dict[str, Any], dict[str, Any], float]] = [
    ({}, {}, 0.04),
    *(({"graph": graph}, {}, 0.02) for graph in GRAPHS),
    ({"algorithm": "gradient_tracking"}, {}, 0.02),
    ({"algorithm": "push_sum", "graph": "exponential"}, {}, 0.02),
    ({"algorithm": "choco", "consensus_rate": 0.8}, {"name": "qsgd"}, 0.04),
    ({"algorithm": "choco"}, {"name": "random_k", "ratio": 0.25}, 0.04),
]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_digits_are_learnt_as_with_a_shared_model(tmp_path: Path) -> None:
    """Eight silos, 40 rounds: how far each way is behind serverless FedAvg in accuracy."""

    def accuracy(**sections: Any) -> float:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        run = {"rounds": 40, "evaluate_every": 40, "display": "none", "dir": str(folder)}
        tables = {"run": run, "task": {"name": "digits"}, "checkpoint": {"every": 0}, **sections}
        found = silofl.simulate({"secure": {"protocol": "plain"}, **tables}, silos=8)
        return float(found.summary["accuracy"])

    behind: list[float] = []
    shared = accuracy()
    for topology, compress, most in WAYS:
        more = {"compress": compress} if compress else {}
        behind.append(shared - accuracy(topology={"name": "gossip", **topology}, **more))
        assert behind[-1] <= most, (topology, behind)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("silos", "graph"), [(16, "exponential"), (32, "one_peer_exponential"), (16, "ring")]
)
def test_many_ranks_run_to_the_end(start: Start, tmp_path: Path, silos: int, graph: str) -> None:
    protocol = "plain" if graph == "one_peer_exponential" else "secagg"
    more = [f"topology.graph={graph}", f"secure.protocol={protocol}", "run.rounds=3", "run.evaluate_every=3"]
    tmp_path.joinpath("config.toml").write_text(DIGITS)
    command = ["train", str(tmp_path / "config.toml"), "--run", str(tmp_path / "run")]
    end = start(silos, *command, *[word for one in more for word in ("--set", one)]).wait(800)
    assert end.code == 0, end.out + end.err
    assert lines(tmp_path)[-1]["survivors"] == list(range(silos))
