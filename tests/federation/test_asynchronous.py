"""Asynchronous federations: against a naive one, over kills and resumes, and each update counted once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.tasks.base import SiloData, Task
from tests.campaigns import mostly_long
from tests.federation import rejoining
from tests.federation.threads import Normalized, Record, federate, prepare, records, settings

PLAIN, SECURE = {"protocol": "plain"}, {"protocol": "secagg", "bits": 32}
VIRTUAL = {"name": "asynchronous", "buffer": 3, "seconds": [1.0, 1.1, 1.2, 2.7]}
CENTRES = np.array([[1.0, -2.0], [3.0, 0.5], [-1.0, 4.0], [8.0, 1.0]])
LR, STEPS = 0.1, 3


class Quadratic:
    """Silo k descends on |x - c_k|^2 / 2 from x = (10, 10), by one sample."""

    def model(self) -> nn.Module:
        module = nn.Module()
        module.x = nn.Parameter(torch.full((2,), 10.0, dtype=torch.float64))
        return module

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(torch.from_numpy(CENTRES[silo : silo + 1])), None)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x: Tensor = model.x  # type: ignore[assignment]
        return 0.5 * ((x - batch[0]) ** 2).sum()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def quadratic(path: Path, topology: Mapping[str, Any], **run: Any) -> Config:
    tables = {
        "run": {"dir": str(path), "rounds": 12} | run,
        "train": {"dtype": "float64", "lr": LR, "steps": STEPS, "momentum": 0.0, "keep_optimizer": False},
        "strategy": {"name": "fedavg"},
        "secure": PLAIN,
        "topology": {"name": "asynchronous"} | dict(topology),
    }
    plain = settings(path, **{name: keys for name, keys in tables.items() if name != "strategy"})
    return plain.model_copy(update={"strategy": type(plain).model_fields["strategy"].default})


def run_task(config: Config, task: type[Task], silos: int, *, resume: bool = False) -> list[Any]:
    def rank(comm: Communicator) -> Record | SiloflError:
        torch.set_num_threads(1)
        try:
            return train(config, task(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def naive(seconds: list[float], count: int, rounds: int, *, mixes: bool, alpha: float) -> NDArray[np.float64]:
    """FedBuff and FedAsync by hand: events in the order of their times, and a list of all models."""
    models, bases = [np.full(2, 10.0)], dict.fromkeys(range(len(seconds)), 0)
    ends = dict(enumerate(seconds))
    for number in range(1, rounds + 1):
        opened = sorted(ends.values())[count - 1]
        silos = [silo for silo in sorted(ends) if ends[silo] <= opened]
        newest, steps = models[-1], []
        for silo in silos:
            old = models[bases[silo]]
            trained = CENTRES[silo] + (old - CENTRES[silo]) * (1 - LR) ** STEPS
            weight = alpha * (number - 1 - bases[silo] + 1) ** -0.5
            steps.append(weight * (trained - (newest if mixes else old)))
            bases[silo], ends[silo] = number, opened + seconds[silo]
        models.append(newest + np.mean(steps, axis=0))
    return models[-1]


@pytest.mark.parametrize(("method", "count"), [("fedbuff", 2), ("fedasync", 1)])
def test_it_is_the_naive_one(tmp_path: Path, method: str, count: int) -> None:
    seconds, alpha = [1.0, 1.13, 1.7, 4.9], 0.6
    topology = {"method": method, "buffer": count, "alpha": alpha, "seconds": seconds}
    results = run_task(quadratic(tmp_path, topology), Quadratic, 4)
    found = load_file(tmp_path / "model.safetensors")["x"]
    expected = naive(seconds, count, 12, mixes=method == "fedasync", alpha=alpha)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert max(one for line in records(tmp_path) for one in line["staleness"].values()) > 1
    assert len({one["model_sha256"] for one in results}) == 1


def arrays(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in load_file(path / "model.safetensors").items()}


def test_of_all_silos_each_time_it_is_the_synchronous_one(tmp_path: Path) -> None:
    """Bit for bit, with a weight of 1 for what is fresh, and secure."""
    paths = []
    for name, topology in (("sharded", {}), ("all", {"name": "asynchronous", "buffer": 3})):
        paths.append(tmp_path / name)
        config = settings(paths[-1], run={"rounds": 3}, secure=SECURE, topology=topology)
        federate(config, 3)
    assert arrays(paths[0]) == arrays(paths[1])


def refuse_repeats(lines: list[Record]) -> dict[int, int]:
    """How many updates of each silo counted; each was trained from a model that has the one before."""
    last, counts = dict[int, int](), dict[int, int]()
    for line in lines:
        assert {int(silo) for silo in line["staleness"]} == set(line["survivors"])
        for name, staleness in line["staleness"].items():
            silo, base = int(name), line["round"] - 1 - staleness
            assert base >= last.get(silo, 0), f"silo {silo} counted twice"
            last[silo] = line["round"]
            counts[silo] = counts.get(silo, 0) + 1
    return counts


@pytest.mark.parametrize("secure", mostly_long([PLAIN, SECURE], 1), ids=["plain", "secagg"])
@pytest.mark.parametrize("step", mostly_long(["step", "collect middle", "between rounds"], 0))
def test_a_resume_by_declared_seconds_is_the_run_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: Any, step: str
) -> None:
    """Killed while an update of an earlier model is under way: it is trained again, from that model."""
    prepare(monkeypatch)
    run = {"rounds": 8}
    config = settings(tmp_path / "whole", run=run, secure=secure, topology=VIRTUAL)
    federate(config, 4)
    lines = records(tmp_path / "whole")
    assert max(one for line in lines for one in line["staleness"].values()) == 2

    killed = [f"kill silo {silo} round 5 at {step}" for silo in range(4)]
    path = tmp_path / "killed"
    once = {"policy": "shrink", "inject": killed}
    assert federate(settings(path, run=run, secure=secure, topology=VIRTUAL, failure=once), 4) == [None] * 4
    again = federate(settings(path, run=run, secure=secure, topology=VIRTUAL), 4, resume=True)
    assert len({one["model_sha256"] for one in again}) == 1
    assert arrays(path) == arrays(tmp_path / "whole")
    found = records(path)
    assert [one["staleness"] for one in found] == [one["staleness"] for one in lines]
    assert sum(refuse_repeats(found).values()) == sum(len(one["survivors"]) for one in lines)


@pytest.mark.parametrize(
    "step", mostly_long(["train", "advertise", "collect middle", "step", "between rounds"], 0, 2)
)
@pytest.mark.parametrize("silo", mostly_long([3, 0], 0))
def test_others_go_on_when_a_silo_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, silo: int
) -> None:
    """One of four, by the clock, in a secure sum of three at least."""
    prepare(monkeypatch)
    begins = {"seconds": [1.0] * 4} if step == "train" else {}  # else it may train on from the round before
    topology = {"name": "asynchronous", "buffer": 3} | begins
    failure = {"policy": "shrink", "inject": [f"kill silo {silo} round 3 at {step}"]}
    config = settings(tmp_path, run={"rounds": 6}, secure=SECURE, topology=topology, failure=failure)
    results = federate(config, 4)
    left = [one for number, one in enumerate(results) if number != silo]
    assert results[silo] is None
    assert len({one["model_sha256"] for one in left}) == 1
    lines = records(tmp_path)
    assert [line["round"] for line in lines] == list(range(1, 7))
    assert [one for line in lines for one in line["failed"]] == [silo]
    assert all(len(line["survivors"]) >= 3 for line in lines)
    refuse_repeats(lines)


def test_a_silo_comes_back_and_trains_from_the_newest_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": ["kill silo 3 round 2 at train"]}
    topology = {"name": "asynchronous", "buffer": 3}
    config = settings(tmp_path, run={"rounds": 7}, secure=SECURE, topology=topology, failure=failure)
    results = rejoining.federate(monkeypatch, config, Normalized, 4, 3, after=4)
    assert len({one["model_sha256"] for one in results}) == 1
    lines = records(tmp_path)
    assert [line["rejoined"] for line in lines if line["rejoined"]] == [[3]]
    counts = refuse_repeats(lines)
    assert counts[3] >= 2, lines


def test_a_sum_that_too_few_are_left_in_stays_closed_until_others_have_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of silos 0, 1 and 2 one dies while they are added up; the sum is then of silo 3, too, and of no two."""
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": ["kill silo 1 round 2 at collect middle"]}
    config = settings(tmp_path, run={"rounds": 3}, secure=SECURE, topology=VIRTUAL, failure=failure)
    results = federate(config, 4)
    assert [one is None for one in results] == [False, True, False, False]
    assert [line["survivors"] for line in records(tmp_path)] == [[0, 1, 2], [0, 2, 3], [0, 2, 3]]
