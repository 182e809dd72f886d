"""What a lying silo tells of itself: another form is one refusal by its name, another's name is not taken."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silofl import config as configuration
from silofl.checkpoint.store import CheckpointStore
from silofl.comm.protocol import Communicator
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.errors import ConfigError, ProtocolError
from silofl.federation.loop import train
from silofl.tasks.metrics import SumState
from tests.federation.test_traffic import WithoutBuffers

SILOS = 3


class Task(WithoutBuffers):
    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        def finish(total: Tensor) -> Tensor:
            return total[0] / total[1]

        return {"part": SumState(torch.ones(2), finish)}


def federate(path: Path, *, resume: bool = False, rounds: int = 1, **sections: Any) -> list[Any]:
    tables: dict[str, Any] = {
        "run": {"name": "told", "dir": str(path) if path.name else "", "display": "none", "rounds": rounds},
        "train": {"full_batch": True},
        "checkpoint": {"key_file": str(path.parent / "key-{silo}")} if sections else {},
        **sections,
    }

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(configuration.parse(tables), Task(), comm=comm, resume=resume)
        except Exception as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=30)


def lie(monkeypatch: pytest.MonkeyPatch, liar: int, place: str, change: Callable[[Any], Any]) -> None:
    """Have a silo tell something else where a function of this name exchanges JSON."""

    def spoilt(payload: bytes, *, value: bool) -> bytes:
        told = json.loads(payload)
        return json.dumps({"value": change(told["value"])} if value else change(told)).encode()

    def here() -> bool:
        return any(frame.function == place for frame in inspect.stack(0)[2:9])

    gather, broadcast = ThreadCommunicator._allgather_bytes, ThreadCommunicator._broadcast_bytes

    def gathered(self: Any, payload: bytes) -> list[bytes]:
        tells = payload.startswith(b'{"value"') and self.members[self.rank] == liar and here()
        return gather(self, spoilt(payload, value=True) if tells else payload)

    def broadcasted(self: Any, payload: bytes, root: int) -> bytes:
        tells = self.rank == root == liar and payload.startswith((b"{", b"[")) and here()
        return broadcast(self, spoilt(payload, value=False) if tells else payload, root)

    monkeypatch.setattr(ThreadCommunicator, "_allgather_bytes", gathered)
    monkeypatch.setattr(ThreadCommunicator, "_broadcast_bytes", broadcasted)


LARGE = {"part": ["state", 2], "mine": ["state", 10**10]}
NOISE = {"unit": "silo", "noise_multiplier": 20.0}


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("liar", "place", "told", "sections"),
    [
        (0, "agree_on_version_and_config", 5, {}),
        (0, "agree_on_model", [1, 2], {}),
        (1, "of", [5], {}),
        (1, "agree_on_schema", [["a"]], {}),
        (1, "agree_on_metrics", LARGE, {}),
        (1, "agree_on_metrics", {"part": ["state", -2]}, {}),
        (1, "agree_on_metrics", {"\x1b[2J": ["mean", 2]}, {}),
        (0, "_finish", {"part": {"part": "7"}}, {}),
        (1, "commit_pending", {"note": {"silo": 0}}, {}),
        (0, "agreed_multiplier", [20.0], {"privacy": NOISE}),
        (0, "begin", [{"round": 1}], {"privacy": NOISE}),
    ],
)
def test_what_no_silo_sends_is_one_refusal_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, liar: int, place: str, told: Any, sections: Any
) -> None:
    lie(monkeypatch, liar, place, lambda _: told)
    ends = federate(tmp_path / "run", **sections)
    assert all(isinstance(end, ProtocolError) and f"silo {liar}'s" in str(end) for end in ends), ends
    assert all(end.sender == liar for end in ends)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("place", "spoils"),
    [("latest", lambda told: isinstance(told, dict) and "bad" in told), ("restore", lambda told: True)],
)
def test_of_a_resume_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, spoils: Callable[[Any], bool]
) -> None:
    assert all(isinstance(end, dict) for end in federate(tmp_path / "run"))
    lie(monkeypatch, 1, place, lambda told: 5 if spoils(told) else told)
    ends = federate(tmp_path / "run", resume=True, rounds=2)
    assert all(isinstance(end, ProtocolError) and "silo 1's" in str(end) for end in ends), ends


def test_a_silo_that_never_has_its_file_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federate(tmp_path / "run")
    asked: list[int] = []
    honest = CheckpointStore._own

    def own(self: Any, *given: Any) -> Any:
        asked.append(1)
        return honest(self, *given)

    monkeypatch.setattr(CheckpointStore, "_own", own)
    lie(monkeypatch, 1, "own", lambda told: True if told in (True, False) else told)
    assert all(isinstance(end, dict) for end in federate(tmp_path / "run", resume=True, rounds=2))
    assert len(asked) == SILOS


def test_no_silo_shows_numbers_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def as_another(told: Any) -> Any:
        if isinstance(told, dict) and told.get("note"):
            told["note"] |= {"silo": 0, "shown": {"train_loss": 77.0}}
        return told

    lie(monkeypatch, 1, "commit_pending", as_another)
    ends = federate(tmp_path / "run")
    assert [one.get("train_loss") == 77.0 for one in ends[0]["metrics_per_silo"]] == [False, True, False]


@pytest.mark.parametrize("told", ["/elsewhere", "../../elsewhere", "runs/told/../../elsewhere", "runs/other"])
def test_no_silo_writes_where_another_has_it_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    told = f"{tmp_path}{told}" if told.startswith("/") else told
    broadcast = ThreadCommunicator._broadcast_bytes

    def broadcasted(self: Any, payload: bytes, root: int) -> bytes:
        return broadcast(self, told.encode() if payload == b"runs/told" else payload, root)

    monkeypatch.setattr(ThreadCommunicator, "_broadcast_bytes", broadcasted)
    ends = federate(Path())
    assert all(isinstance(end, ConfigError) and "name its own with --run" in str(end) for end in ends), ends
    assert [name for _, folders, files in os.walk(tmp_path) for name in (*folders, *files)] == ["a", "b"]
