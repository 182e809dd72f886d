"""A run that goes on without silos whose files went with their host, as if they had died at that instant."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError, LeftOutError, SiloflError, StoppedError
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


def configs(path: Path, protocol: str, *, rounds: int = ROUNDS, **sections: Record) -> list[Config]:
    """Every silo's: each host has a folder."""
    more = {"secure": {"protocol": protocol}, "run": {"rounds": rounds}, **sections}
    return [settings(path / f"host-{host}", **more) for host in HOSTS]


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
    """Of silos that have just died, whose threads may be writing a checkpoint still."""
    end = time.monotonic() + 10
    while (path / f"host-{host}").exists():
        with suppress(OSError):
            shutil.rmtree(path / f"host-{host}")
        assert time.monotonic() < end


@pytest.fixture
def as_if_died(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The model of a run in which the lost silos die when round 3 has its model."""
    protocol = request.getfixturevalue("protocol")
    found = federate(configs(tmp_path / "died", protocol, failure=killed(LOST, 3, "evaluate")))
    digest: str = found[0]["model_sha256"]
    return digest


@pytest.mark.covering(0)
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


@pytest.mark.long
@pytest.mark.covering(0)
@PROTOCOLS
def test_it_is_resumed_again_without_them_and_then_with_them(
    tmp_path: Path, protocol: str, as_if_died: str
) -> None:
    """Killed again before it commits a round of its own; then as it ends the host is back, with old files."""
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path / "run", protocol, failure=killed(everybody, 4))) == [None] * SILOS
    (tmp_path / "run/host-1").rename(tmp_path / "away")
    left = configs(tmp_path / "run", protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silofl.federation.start.RunState", lambda *_: (_ for _ in ()).throw(SimulatedCrash()))
        assert not any(isinstance(one, dict) for one in federate(left, resume=True))
    found = federate(left, resume=True)
    assert found[0]["model_sha256"] == as_if_died
    shutil.rmtree(tmp_path / "run/host-1")
    (tmp_path / "away").rename(tmp_path / "run/host-1")
    more = federate(configs(tmp_path / "run", protocol, rounds=ROUNDS + 2), resume=True)
    assert [one["survivors"] for one in more] == [list(everybody)] * SILOS
    assert more[0]["rejoined"] == [[ROUNDS + 1, 2], [ROUNDS + 1, 3]]


@pytest.mark.long
def test_a_round_that_was_opened_with_them_stays_closed_without_them(tmp_path: Path) -> None:
    """All are killed as they step round 4: the run goes on with the host's files alone, as if undisturbed."""
    protocol, everybody = "secagg", tuple(range(SILOS))
    whole = federate(configs(tmp_path / "whole", protocol))[0]["model_sha256"]
    assert (
        federate(configs(tmp_path / "run", protocol, failure=killed(everybody, 4, "step"))) == [None] * SILOS
    )
    (tmp_path / "run/host-1").rename(tmp_path / "away")
    every = configs(tmp_path / "run", protocol)
    for _ in range(2):
        found = federate(every, resume=True)
        for silo in (0, 1, 4, 5):
            assert isinstance(found[silo], StoppedError)
            assert "may have been opened for silos 0, 1, 2, 3, 4 and 5 before" in str(found[silo])
            assert "without silos 2 and 3 it stays closed" in str(found[silo])
    shutil.rmtree(tmp_path / "run/host-1")
    (tmp_path / "away").rename(tmp_path / "run/host-1")
    assert federate(every, resume=True)[0]["model_sha256"] == whole


def test_in_the_clear_it_goes_on_from_the_last_committed_round(tmp_path: Path) -> None:
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path, "plain", failure=killed(everybody, 4, "step"))) == [None] * SILOS
    lose(tmp_path, 1)
    found = federate(configs(tmp_path, "plain"), resume=True)
    assert [found[0]["rounds"], found[0]["survivors"]] == [ROUNDS, [0, 1, 4, 5]]


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("protocol", "lost", "why"),
    [
        ("secagg", (1, 2), "2 of 6 silos are left and a round needs 4"),
        ("plain", (1, 2), "the 2 of 6 silos that are left may be the smaller part of a cut network"),
        ("plain", (0, 2), "the 2 of 6 silos that are left may be the smaller part of a cut network"),
    ],
)
def test_too_many_that_are_lost_are_one_sentence(
    tmp_path: Path, protocol: str, lost: tuple[int, ...], why: str
) -> None:
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path, protocol, failure=killed(everybody, 4))) == [None] * SILOS
    for host in lost:
        lose(tmp_path, host)
    gone = [silo for silo in everybody if HOSTS[silo] in lost]
    for found in federate(configs(tmp_path, protocol), resume=True):
        assert isinstance(found, StoppedError)
        assert f"silos {gone[0]}, {gone[1]}, {gone[2]} and {gone[3]} have lost the files" in str(found)
        assert why in str(found)
        assert "put key and checkpoints back" in str(found)


@pytest.mark.covering(0)
@pytest.mark.parametrize("sections", [{}, {"prune": {"name": "magnitude", "density": 0.5, "end": 5}}])
def test_the_leaders_host_is_lost(tmp_path: Path, sections: dict[str, Record]) -> None:
    everybody = tuple(range(SILOS))
    first = configs(tmp_path, "plain", failure=killed(everybody, 4, "step"), **sections)
    assert federate(first) == [None] * SILOS
    lose(tmp_path, 0)
    found = federate(configs(tmp_path, "plain", **sections), resume=True)
    assert isinstance(found[0], LeftOutError)
    assert [found[2]["rounds"], found[2]["survivors"]] == [ROUNDS, [2, 3, 4, 5]]
    assert (tmp_path / "host-1/model.safetensors").exists()


@pytest.mark.covering(0)
@PROTOCOLS
def test_silos_are_left_out_by_name(tmp_path: Path, protocol: str, as_if_died: str) -> None:
    """They have all their files, and are not to be here, as their data is not."""
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path / "run", protocol, failure=killed(everybody, 4))) == [None] * SILOS
    found = federate(configs(tmp_path / "run", protocol, failure={"leave_out": [2, 3]}), resume=True)
    assert all("silos 2 and 3 are named by failure.leave_out" in str(found[silo]) for silo in LOST)
    assert found[0]["model_sha256"] == as_if_died


def test_before_a_round_is_committed_nobody_is_left_out(tmp_path: Path) -> None:
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path, "plain", failure=killed(everybody, 1))) == [None] * SILOS
    for found in federate(configs(tmp_path, "plain", failure={"leave_out": [2, 3]}), resume=True):
        assert isinstance(found, StoppedError)
        assert "there is no committed round that could go on without them" in str(found)
    lose(tmp_path, 1)
    assert federate(configs(tmp_path, "plain"), resume=True)[2]["survivors"] == list(everybody)


def test_only_shrink_leaves_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave_out is for policy = .shrink."):
        configs(tmp_path, "plain", failure={"leave_out": [2], "policy": "respawn"})


@pytest.mark.covering(0)
@pytest.mark.parametrize("policy", ["respawn", "abort"])
def test_other_policies_leave_nobody_out(tmp_path: Path, policy: str) -> None:
    everybody = tuple(range(SILOS))
    assert federate(configs(tmp_path, "plain", failure=killed(everybody, 4))) == [None] * SILOS
    lose(tmp_path, 1)
    for found in federate(configs(tmp_path, "plain", failure={"policy": policy}), resume=True):
        assert isinstance(found, ConfigError)
        assert "by which silo 2 proves that it is the silo of the run's first start" in str(found)
        assert 'leave the silo out by failure.policy = "shrink"' in str(found)


class TestBuddies:
    """With `checkpoint.buddy`, where the silos' keys are not lost with their host, and where they are."""

    @pytest.fixture
    def every(self, tmp_path: Path, protocol: str) -> list[Config]:
        more: Record = {"buddy": True, "key_file": f"{tmp_path}/keys/{{silo}}.key"}
        everybody = tuple(range(SILOS))
        first = configs(tmp_path / "run", protocol, failure=killed(everybody, 4), checkpoint=more)
        assert federate(first) == [None] * SILOS
        lose(tmp_path / "run", 1)
        return configs(tmp_path / "run", protocol, checkpoint=more)

    @pytest.mark.covering(0)
    @PROTOCOLS
    def test_all_go_on_as_if_nothing_was_lost(
        self, tmp_path: Path, protocol: str, every: list[Config]
    ) -> None:
        whole = federate(configs(tmp_path / "whole", protocol))[0]["model_sha256"]
        found = federate(every, resume=True, hosts=(0, 0, 0, 2, 2, 2))
        assert [one["model_sha256"] for one in found] == [whole] * SILOS
        assert found[0]["survivors"] == list(range(SILOS))

    @pytest.mark.long
    @pytest.mark.covering(0)
    @PROTOCOLS
    def test_without_their_keys_they_are_left_out(
        self, tmp_path: Path, protocol: str, every: list[Config], as_if_died: str
    ) -> None:
        for silo in LOST:
            (tmp_path / f"keys/{silo}.key").unlink()
        found = federate(every, resume=True)
        assert all(isinstance(found[silo], LeftOutError) for silo in LOST)
        assert found[0]["model_sha256"] == as_if_died

    @pytest.mark.parametrize("protocol", ["plain"])
    def test_another_runs_key_is_none(self, tmp_path: Path, protocol: str, every: list[Config]) -> None:
        for silo in LOST:
            (tmp_path / f"keys/{silo}.key").write_text("7" * 64)
        found = federate(every, resume=True)
        assert all(isinstance(found[silo], LeftOutError) for silo in LOST)


KINDS: dict[str, dict[str, Record]] = {
    "pruned": {"prune": {"name": "magnitude", "density": 0.5, "end": 5}},
    "in fragments": {"strategy": {"name": "streaming_diloco", "fragments": 2}},
    "compressed": {"compress": {"name": "random_k", "ratio": 0.5, "error_feedback": True}},
    "factored": {"compress": {"name": "powersgd", "rank": 2}},
    "private": {
        "privacy": {"unit": "silo", "place": "distributed", "noise_multiplier": 1.0, "clip_norm": 1.0}
    },
}
"""What has state of its own beside a model's: sections of a configuration."""


@pytest.mark.covering(0)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", ["secagg"])
def test_whatever_has_state_goes_on(tmp_path: Path, kind: str, protocol: str) -> None:
    sections = KINDS[kind]
    died = federate(configs(tmp_path / "died", protocol, failure=killed(LOST, 3, "evaluate"), **sections))
    everybody = tuple(range(SILOS))
    first = configs(tmp_path / "run", protocol, failure=killed(everybody, 4), **sections)
    assert federate(first) == [None] * SILOS
    lose(tmp_path / "run", 1)
    found = federate(configs(tmp_path / "run", protocol, **sections), resume=True)
    assert all(isinstance(found[silo], LeftOutError) for silo in LOST)
    assert [found[0]["rounds"], found[0]["survivors"]] == [ROUNDS, [0, 1, 4, 5]]
    if kind not in ("private", "factored"):  # noise is drawn anew, and factors begin anew where one died
        assert found[0]["model_sha256"] == died[0]["model_sha256"]
