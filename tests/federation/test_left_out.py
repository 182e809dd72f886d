"""A run that goes on without silos whose files went with their host, as if they had died at that instant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import LeftOutError, SiloflError
from silofl.federation.loop import train
from tests.federation.threads import Normalized, Record, prepare, settings

HOSTS = (0, 0, 1, 1, 2, 2)
SILOS = len(HOSTS)
ROUNDS = 6
LOST = (2, 3)
PROTOCOLS = pytest.mark.parametrize("protocol", ["plain", "secagg"])


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


def configs(path: Path, protocol: str, **sections: Record) -> list[Config]:
    """Every silo's: each host has a folder."""
    more = {"secure": {"protocol": protocol}, **sections}
    return [
        settings(path / f"host-{host}", **more, run={"rounds": ROUNDS, **sections.get("run", {})})
        for host in HOSTS
    ]


def federate(every: list[Config], *, resume: bool = False, hosts: tuple[int, ...] = HOSTS) -> list[Any]:
    """What every silo has in the end: its summary, its error, or None where it died."""

    def rank(comm: Communicator) -> Record | SiloflError:
        torch.set_num_threads(1)
        try:
            return train(every[comm.rank], Normalized(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(len(every), rank, timeout_s=60, host_of=lambda rank: hosts[rank])


def killed(silos: tuple[int, ...], number: int, step: str = "train") -> Record:
    return {"inject": [f"kill silo {silo} round {number} at {step}" for silo in silos]}


def lose(path: Path, host: int) -> None:
    shutil.rmtree(path / f"host-{host}")


@pytest.fixture
def as_if_died(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The model of a run in which the lost silos die when round 3 has its model."""
    protocol = request.getfixturevalue("protocol")
    found = federate(configs(tmp_path / "died", protocol, failure=killed(LOST, 3, "evaluate")))
    digest: str = found[0]["model_sha256"]
    return digest


@PROTOCOLS
def test_the_silos_of_a_lost_host_are_left_out(tmp_path: Path, protocol: str, as_if_died: str) -> None:
    """All are killed while round 3 is written and not committed; it is opened, and goes on as it is."""
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path / "run", protocol, failure=killed(everybody, 4))) == [None] * SILOS
    lose(tmp_path / "run", 1)
    found = federate(configs(tmp_path / "run", protocol), resume=True, hosts=(0, 0, 0, 2, 2, 2))
    for silo in LOST:
        assert isinstance(found[silo], LeftOutError)
    assert found[0]["model_sha256"] == as_if_died
    assert [found[silo] for silo in (1, 4, 5)] == [found[0]] * 3
    assert found[0]["survivors"] == [0, 1, 4, 5]
    lines = [json.loads(line) for line in (tmp_path / "run/host-0/metrics.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["failed"] for line in lines] == [[], [], [], [2, 3], [], []]
