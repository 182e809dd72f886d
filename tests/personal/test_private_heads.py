"""A private head never leaves its silo: nothing that ranks hand to one another has its bytes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from silofl.comm.threads import ThreadCommunicator, ThreadSharedBuffer
from silofl.federation.silo import Silo
from tests.campaigns import mostly_long
from tests.personal.test_federated import federate
from tests.strategies.naive import INPUTS

HEAD = {"name": "fedper", "layers": ["head.*"]}


def contents(payload: Any) -> bytes:
    """All bytes of what a rank hands over."""
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    if isinstance(payload, np.ndarray):
        return payload.tobytes()
    if isinstance(payload, (list, tuple)):
        return b"".join(map(contents, payload))
    return repr(payload).encode()


class Spy:
    """All that ranks show one another, and all heads that there ever were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[bytes] = []
        self.heads: list[NDArray[np.float64]] = []
        lock, enter, sync, fit = (
            threading.Lock(),
            ThreadCommunicator._enter,
            ThreadSharedBuffer.sync,
            Silo.fit,
        )

        def entered(comm: Any, *what: Any, payload: Any = None) -> Any:
            with lock:
                self.seen.append(contents(payload))
            return enter(comm, *what, payload=payload)

        def synced(buffer: Any) -> None:
            with lock:
                self.seen += [one.tobytes() for one in buffer.segments]
            sync(buffer)

        def fitted(silo: Any, start: Any) -> Any:
            done = fit(silo, start)
            with lock:
                self.heads.append(silo.model.module.head.weight.detach().double().numpy().ravel().copy())
            return done

        monkeypatch.setattr(ThreadCommunicator, "_enter", entered)
        monkeypatch.setattr(ThreadSharedBuffer, "sync", synced)
        monkeypatch.setattr(Silo, "fit", fitted)

    def found(self, heads: list[NDArray[np.float64]]) -> int:
        """How many of these heads' values are seen: as float64, as pairs of float32, or as text."""
        patterns = set()
        for head in heads:
            for at, value in enumerate(head):
                patterns |= {value.tobytes(), json.dumps(float(value)).encode()}
                patterns.add(head.astype(np.float32)[at : at + 2].tobytes() if at + 1 < len(head) else b"")
        patterns.discard(b"")
        everything = b"\0\0".join(self.seen)
        return sum(pattern in everything for pattern in patterns)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    "personal", [HEAD, {"name": "fedrep", "layers": ["head.*"], "head_epochs": 2}], ids=["fedper", "fedrep"]
)
@pytest.mark.parametrize(
    "secure", mostly_long([{"protocol": "secagg", "bits": 32}, {"protocol": "plain"}], 1), ids=str
)
def test_no_message_has_a_byte_of_a_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, personal: Any, secure: Any
) -> None:
    spy = Spy(monkeypatch)
    federate(tmp_path, personal, rounds=4, **secure)
    assert len(spy.heads) == 16
    assert len({head.tobytes() for head in spy.heads}) == 16
    assert spy.found(spy.heads) == 0
    shared = load_file(tmp_path / "model.safetensors")
    assert sorted(shared) == ["rest.weight"]
    assert spy.found([shared["rest.weight"].ravel()]) >= shared["rest.weight"].size  # so that it does find
    owned = [load_file(tmp_path / f"silo-000{silo}" / "personal.safetensors") for silo in range(4)]
    for silo, own in enumerate(owned):
        assert own["head.weight"].shape == (1, INPUTS)
        assert any(np.array_equal(own["head.weight"].ravel(), head) for head in spy.heads[-4:]), silo
        assert np.array_equal(own["rest.weight"], shared["rest.weight"])
        mode = (tmp_path / f"silo-000{silo}" / "personal.safetensors").stat().st_mode & 0o777
        assert mode == 0o600


def test_a_shared_head_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = Spy(monkeypatch)
    federate(tmp_path, {"name": "finetune"}, rounds=2, protocol="plain")
    assert spy.found([load_file(tmp_path / "model.safetensors")["head.weight"].ravel()]) >= INPUTS
