"""Somebody on the wire changes what decides a sum, for all silos but one: it would be that one's update.

Institutions' identities and roster are configured; only public bytes are changed, as they come in.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silofl import config as configuration
from silofl.aggregation.additive import Additive
from silofl.aggregation.formats.scaled import LEVEL, LEVELS, LOWEST, decode_ranges
from silofl.aggregation.secagg import SecAgg
from silofl.comm.protocol import Communicator
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.config import Config
from silofl.crypto.identity import SIGNATURE_BYTES, Identity
from silofl.crypto.noise_keys import FINGERPRINT_BYTES
from silofl.crypto.roster import Roster
from silofl.errors import ProtocolError
from silofl.federation import round as round_module
from silofl.federation.loop import train
from tests.federation.threads import Normalized

SILOS, TARGET = 5, 3


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    own = [Identity.generate() for _ in range(SILOS)]
    for number, identity in enumerate(own):
        identity.save(tmp_path / f"silo-{number}.pem")
    (tmp_path / "roster.toml").write_text(Roster.ephemeral([one.public for one in own]).dumps())
    return tmp_path


def settings(path: Path, silo: int, strategy: str = "fedavg", privacy: Any = None, **secure: Any) -> Config:
    files = {"identity": str(path / f"silo-{silo}.pem"), "roster": str(path / "roster.toml")}
    return configuration.parse(
        {
            "run": {"name": "m", "dir": str(path / "run"), "display": "none", "rounds": 3},
            "train": {"full_batch": True},
            "strategy": {"name": strategy},
            "secure": files | secure,
            "privacy": privacy or {},
            "failure": {"policy": "shrink"},
            "checkpoint": {"every": 0},
        }
    )


def federate(path: Path, **secure: Any) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(settings(path, comm.rank, **secure), Normalized(), comm=comm)
        except Exception as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def caller(name: str) -> bool:
    """Whether the frames that lead here come by a function of this name."""
    return any(frame.function == name for frame in inspect.stack(0)[2:9])


def a_range(comm: Communicator, payload: bytes, rows: list[bytes]) -> list[bytes]:
    """One bit of one silo's words: the range of the first tensor becomes 2^60."""
    if (len(payload) - SIGNATURE_BYTES) % (LEVELS * LEVEL.itemsize) or not caller("_agreed_ranges"):
        return rows
    row = bytearray(rows[1 if comm.rank == 0 else 0])
    row[(60 - LOWEST) * LEVEL.itemsize] ^= 1
    rows[1 if comm.rank == 0 else 0] = bytes(row)
    return rows


def a_total(comm: Communicator, payload: bytes, rows: list[bytes]) -> list[bytes]:
    """The highest limb of one silo's sample count."""
    if not (caller("masked_total") and caller("secure_total")):
        return rows
    words = np.frombuffer(rows[1 if comm.rank == 0 else 0], np.uint32).copy()
    words[-1] += np.uint32(1 << 10)
    rows[1 if comm.rank == 0 else 0] = words.tobytes()
    return rows


def a_metric(comm: Communicator, payload: bytes, rows: list[bytes]) -> list[bytes]:
    """A word of a sum that comes after the round's vote."""
    if not caller("sum_scalars") or caller("secure_total"):
        return rows
    row = bytearray(rows[1 if comm.rank == 0 else 0])
    row[0] ^= 1
    rows[1 if comm.rank == 0 else 0] = bytes(row)
    return rows


def a_tail(comm: Communicator, payload: bytes, rows: list[bytes]) -> list[bytes]:
    """A word of what rides along with the vectors."""
    if not caller("_collect"):
        return rows
    row = bytearray(rows[1 if comm.rank == 0 else 0])
    row[0] ^= 1
    rows[1 if comm.rank == 0 else 0] = bytes(row)
    return rows


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which ranks ever read a sum of updates."""
    readers: list[int] = []
    for kind in (SecAgg, Additive):
        total = kind.total

        def read(self: Any, index: int, total: Any = total) -> Any:
            readers.append(index)
            return total(self, index)

        monkeypatch.setattr(kind, "total", read)
    return readers


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("change", "secure", "word"),
    [
        (a_range, {}, "were given different "),  # ranges, or words where two silos were told as large ones
        (a_total, {}, "small sum"),
        (a_total, {"range": 1.0}, "small sum"),
        (a_tail, {}, "words of the small sums"),
    ],
    ids=["range", "total", "total, range configured", "tail"],
)
def test_what_decides_a_sum_is_refused_by_name(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int], change: Any, secure: Any, word: str
) -> None:
    honest = ThreadCommunicator.allgather_bytes

    def tampered(self: Any, payload: bytes) -> list[bytes]:
        rows = list(honest(self, payload))
        return rows if self.members[self.rank] == TARGET else change(self, payload, rows)

    monkeypatch.setattr(ThreadCommunicator, "allgather_bytes", tampered)
    ends = federate(identities, bits=32, **secure)
    assert all(isinstance(end, ProtocolError) for end in ends), ends
    assert all(word in str(end) and "silo" in str(end) for end in ends), ends
    assert not opened


def a_fingerprint(comm: Communicator, payload: bytes, rows: list[bytes]) -> list[bytes]:
    """What the noise of one silo's share is bound to, as in another copy of the run."""
    if not caller("_exchanged"):
        return rows
    rows[1 if comm.rank == 0 else 0] = json.dumps({"value": bytes(FINGERPRINT_BYTES).hex()}).encode()
    return rows


def test_noise_that_is_bound_to_something_else_opens_no_sum(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int]
) -> None:
    """Told what a silo brought to a copy of the run, the others would have the shares that they had there."""
    honest = ThreadCommunicator.allgather_bytes

    def tampered(self: Any, payload: bytes) -> list[bytes]:
        rows = list(honest(self, payload))
        return rows if self.members[self.rank] == TARGET else a_fingerprint(self, payload, rows)

    monkeypatch.setattr(ThreadCommunicator, "allgather_bytes", tampered)
    privacy = {"unit": "silo", "noise_multiplier": 1.0, "clip_norm": 1.0}
    ends = federate(identities, privacy=privacy, bits=32)
    assert all(isinstance(end, ProtocolError) and "different terms of the sum" in str(end) for end in ends), (
        ends
    )
    assert not opened


def test_metrics_that_were_changed_are_refused_by_name(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ThreadCommunicator.allgather_bytes

    def tampered(self: Any, payload: bytes) -> list[bytes]:
        rows = list(honest(self, payload))
        return rows if self.members[self.rank] == TARGET else a_metric(self, payload, rows)

    monkeypatch.setattr(ThreadCommunicator, "allgather_bytes", tampered)
    ends = federate(identities)
    changed = [end for silo, end in enumerate(ends) if silo != TARGET]
    assert all("silo 0's words of a small sum are refused: its signature" in str(end) for end in changed[1:])
    assert "silo 1's words of a small sum are refused" in str(ends[0])


def hand_out_another_model(monkeypatch: pytest.MonkeyPatch, *, spared: int, values: int) -> None:
    """In the first round all silos but `spared` get a model whose last `values` are wrong."""
    honest, calls = ThreadCommunicator.allgather, [0] * SILOS

    def tampered(self: Any, send: Any, receive: Any, counts: Any) -> None:
        honest(self, send, receive, counts)
        if caller("step") and caller("_server_step"):
            calls[self.rank] += 1
            if calls[self.rank] == 1 and self.members[self.rank] != spared:
                receive[-values:] = -1e4

    monkeypatch.setattr(ThreadCommunicator, "allgather", tampered)


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_another_model_for_all_but_one_is_refused_by_name(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int], protocol: str
) -> None:
    """Model inconsistency (Pasquini et al. 2022): the others' gradients are zero, the sum is the target's."""
    hand_out_another_model(monkeypatch, spared=TARGET, values=100)
    alone = {"recompute": 0} if protocol == "secagg" else {}  # that finds no lie first
    ends = federate(identities, protocol=protocol, **alone)
    assert all(isinstance(end, ProtocolError) for end in ends)
    assert all("different global model" in str(end) or "given another model" in str(end) for end in ends)
    assert sorted(opened) == list(range(SILOS))  # of the first round, once each


def test_a_server_that_gives_its_checker_the_right_slice_is_refused_by_the_others(
    identities: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same wrong one to all others: silo 4 checks silo 3's slice, the last that has values."""
    hand_out_another_model(monkeypatch, spared=4, values=50)
    ends = federate(identities)
    assert all(isinstance(end, ProtocolError) and "given another model" in str(end) for end in ends), ends


def test_additive_refuses_another_range(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int]
) -> None:
    """The committee's first member tells silos different sums."""
    honest = ThreadCommunicator.broadcast_bytes

    def tampered(self: Any, payload: bytes, root: int = 0) -> bytes:
        told = honest(self, payload, root)
        if len(told) % (LEVELS * LEVEL.itemsize) or self.members[self.rank] == TARGET or not told:
            return told
        words = bytearray(told)
        words[(60 - LOWEST) * LEVEL.itemsize] ^= 1
        return bytes(words)

    monkeypatch.setattr(ThreadCommunicator, "broadcast_bytes", tampered)
    ends = federate(identities, protocol="additive")
    assert all(isinstance(end, ProtocolError) and "different ranges" in str(end) for end in ends)
    assert not opened


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_another_model_after_the_last_step_shows_no_metric(
    identities: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """The others' losses on a model of zeros are known beforehand: the sum would be the target's loss."""
    honest, calls = ThreadCommunicator.allgather, [0] * SILOS

    def tampered(self: Any, send: Any, receive: Any, counts: Any) -> None:
        honest(self, send, receive, counts)
        if caller("step") and caller("_server_step") and self.members[self.rank] != TARGET:
            calls[self.rank] += 1
            receive[:] = 0

    monkeypatch.setattr(ThreadCommunicator, "allgather", tampered)
    seen: list[Any] = []
    for kind in (SecAgg, Additive):
        sums = kind.sum_scalars

        def read(self: Any, *given: Any, sums: Any = sums) -> Any:
            found = sums(self, *given)
            seen.append(found)
            return found

        monkeypatch.setattr(kind, "sum_scalars", read)
    alone = {"recompute": 0} if protocol == "secagg" else {}  # that finds no lie first
    ends = federate(identities, protocol=protocol, **alone)
    assert all(isinstance(end, ProtocolError) for end in ends), ends
    assert not seen


def test_the_ranges_of_another_model_stay_hidden(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int]
) -> None:
    """Exponents of gradients tell of the model that they were measured on: they come out as noise."""
    honest, decoded = ThreadCommunicator.allgather, []
    monkeypatch.setattr(
        "silofl.aggregation.wire_format.decode_ranges",
        lambda sums, names, decode=decode_ranges: decoded.append(decode(sums, names)) or decoded[-1],
    )

    def tampered(self: Any, send: Any, receive: Any, counts: Any) -> None:
        honest(self, send, receive, counts)
        if caller("_distribute") and self.members[self.rank] != TARGET:
            receive[:] = 0.5

    monkeypatch.setattr(ThreadCommunicator, "allgather", tampered)
    ends = federate(identities)
    assert all("different global model" in str(end) for end in ends), ends
    assert not decoded
    assert not opened


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["secagg", "additive"])
def test_a_silo_that_resynchronizes_alone_is_refused_by_name(
    identities: Path, monkeypatch: pytest.MonkeyPatch, opened: list[int], protocol: str
) -> None:
    """It sends its control variate whole, the others the changes of theirs: of such a sum it is most."""
    honest = round_module._trained

    def told(federation: Any, *of: Any) -> Any:
        federation.context.membership.resync = federation.group.silo_id == TARGET
        return honest(federation, *of)

    monkeypatch.setattr(round_module, "_trained", told)
    ends = federate(identities, strategy="scaffold", protocol=protocol)
    assert all(isinstance(end, ProtocolError) and "different terms of the sum" in str(end) for end in ends), (
        ends
    )
    assert not opened
