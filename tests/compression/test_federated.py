"""Federations of threads with [compress], against NumPy: in the clear, masked, with deaths and returns."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.aggregation.openable_sum import OpenableSum
from silofl.aggregation.packet_sum import PacketSum
from silofl.aggregation.secagg import SecAgg
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import ThreadCommunicator, run_in_threads
from silofl.errors import ProtocolError
from silofl.federation.loop import train
from tests.campaigns import mostly_long
from tests.compression import naive
from tests.compression.naive import (
    ALL,
    LR,
    PACKETS,
    ROUNDS,
    SIZES,
    Array,
    D,
    Pull,
    compressed_fedavg,
    packets_fedavg,
    targets,
)
from tests.exchange_ways import WAYS
from tests.federation import rejoining
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare, records

SILOS = len(SIZES)
VICTIM, FAILS, BACK = 2, 5, 8
BEHIND = FAILS - 2
WITHOUT = tuple(silo for silo in ALL if silo != VICTIM)
FEEDBACK = {"bits": 4, "rotation": True, "error_feedback": True}
CASES: list[tuple[dict[str, Any], dict[str, Any], float]] = [
    ({"name": "random_k", "ratio": 0.3}, {"protocol": "plain"}, 1e-9),
    ({"name": "random_k", "ratio": 0.3, "error_feedback": True}, {"protocol": "plain"}, 1e-9),
    ({"name": "random_k", "ratio": 0.3}, {"protocol": "secagg", "bits": 32}, 1e-5),
    ({"bits": 4, "error_feedback": True}, {"protocol": "secagg"}, 1e-6),
    (FEEDBACK, {"protocol": "secagg"}, 1e-6),
    ({"bits": 8, "error_feedback": True}, {"protocol": "additive", "committee": 3}, 1e-6),
    ({"bits": 8, "error_feedback": True}, {"protocol": "secagg", "bits": 8}, 1e-6),
    ({"name": "random_k", "ratio": 0.5} | FEEDBACK, {"protocol": "secagg", "bits": 32}, 1e-6),
]
"""What is compressed, what adds it up, and by how much it may differ from the reference."""


def settings(path: Path, compress: Any, secure: Any, rounds: int = ROUNDS, **sections: Any) -> Any:
    return configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": 1, "lr": LR, "dtype": "float64"},
            "compress": compress,
            "secure": secure,
        }
        | sections
    )


def federate(config: Any, *, resume: bool = False, silos: int = SILOS) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Pull(), comm=comm, resume=resume)

    return run_in_threads(silos, rank, timeout_s=60)


def model_of(path: Path) -> Array:
    found = load_file(path / "model.safetensors")
    return np.concatenate([found[name].ravel() for name in ("a", "b")])


@pytest.mark.covering(0)
@pytest.mark.parametrize(("compress", "secure", "bound"), mostly_long(CASES, 1, 4, 5, 7), ids=str)
def test_sums_of_compressed_updates_are_those_of_the_reference(
    tmp_path: Path, compress: Any, secure: Any, bound: float
) -> None:
    results = federate(settings(tmp_path, compress, secure))
    assert len({one["model_sha256"] for one in results}) == 1
    expected = compressed_fedavg([ALL] * ROUNDS, compress)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)


@pytest.mark.long
@pytest.mark.parametrize(
    "secure",
    mostly_long([{"protocol": "secagg"}, {"protocol": "additive", "committee": 2}], 0),
    ids=str,
)
def test_a_silo_of_fewer_samples_than_half_a_level_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: Any
) -> None:
    """It has a level of its own, that of a range many times its update, and sends it when enough is left."""
    sizes, rounds = (5, 60, 80, 90), 36
    monkeypatch.setattr(naive, "SIZES", sizes)
    small_rate = {"train": {"full_batch": True, "steps": 1, "lr": 0.1, "dtype": "float64"}}
    monkeypatch.setattr(naive, "LR", 0.1)
    federate(settings(tmp_path, FEEDBACK, secure, rounds, **small_rate))
    expected = compressed_fedavg([ALL] * rounds, FEEDBACK)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)
    heard, unheard = (np.average(targets()[few:], axis=0, weights=sizes[few:]) for few in (0, 1))
    way = (heard - unheard) / np.linalg.norm(heard - unheard) ** 2
    assert (expected - unheard) @ way == pytest.approx(1.0, abs=0.3)  # 0 where it sends zeros
    for line in records(tmp_path):  # nothing tells who it is
        assert not line["widest"]
        assert not line["lost_tensors"]


@pytest.mark.parametrize("lie", mostly_long([0.5, 100.0, -3.0, float("nan")], 1, 3))
def test_a_false_number_of_small_silos_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: float
) -> None:
    """Which one silo may state, and by which all would have too few levels, or begin again for ever."""
    sums = SecAgg.sum_scalars

    def lying(own: SecAgg, values: Any, made_from: Any = ()) -> Any:
        own_silo = own._sum.session.group.silo_id
        return sums(own, values + lie if own_silo == 1 and values.shape == (1,) else values, made_from)

    monkeypatch.setattr(SecAgg, "sum_scalars", lying)
    with pytest.raises(ProtocolError, match="is no number of silos: one of them states it wrongly"):
        federate(settings(tmp_path, FEEDBACK, {"protocol": "secagg"}, 2))


@pytest.mark.long
@pytest.mark.parametrize("bits", mostly_long([8, 16], 0))
def test_without_error_feedback_sums_are_near_those_that_lose_nothing(tmp_path: Path, bits: int) -> None:
    """Stochastic rounding to levels of the largest value's range: 20 over 2^(bits - 2) or so."""
    federate(settings(tmp_path, {"bits": bits}, {"protocol": "secagg"}))
    exact = compressed_fedavg([ALL] * ROUNDS, {})
    error = np.abs(model_of(tmp_path) - exact).max()
    assert 0 < error < 64 * 2.0 ** -(bits - 3)


@pytest.mark.long
def test_with_many_levels_few_large_values_are_not_left_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as rows of an embedding that a batch has: far beyond twice the root mean square."""
    sparse = np.where(np.arange(D) % 50 == 0, targets(), 0.0)
    monkeypatch.setattr(naive, "targets", lambda: sparse)
    federate(settings(tmp_path, {"bits": 16, "error_feedback": True}, {"protocol": "secagg"}))
    exact = compressed_fedavg([ALL] * ROUNDS, {})
    assert np.linalg.norm(model_of(tmp_path) - exact) < 0.01 * np.linalg.norm(exact)


MOMENTS = ("train", "collect first", "step", "allgather")
DEATHS = [(at, way) for at in MOMENTS for way in WAYS]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("at", "way"), mostly_long(DEATHS, 0, 8))
def test_a_silo_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, way: str) -> None:
    """As it trains, or within a round whose sum it is in or is not."""
    prepare(monkeypatch, way=way)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at {at}"]}
    results = federate(settings(tmp_path, FEEDBACK, {"protocol": "secagg"}, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [line["survivors"] for line in records(tmp_path)]
    assert (VICTIM in present[FAILS - 1]) == (at in ("step", "allgather"))
    assert present[FAILS:] == [[*WITHOUT]] * (ROUNDS - FAILS)
    began = [ALL] * FAILS + [WITHOUT] * (ROUNDS - FAILS)
    stated = [WITHOUT if at == "train" and number >= FAILS - 1 else one for number, one in enumerate(began)]
    expected = compressed_fedavg(present, FEEDBACK, began=began, stated=stated)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)


@pytest.mark.long
def test_a_silo_comes_back_with_what_it_had_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left of its updates when it last committed is in the first one that it sends again."""
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round {FAILS} at train"]}
    config = settings(tmp_path, FEEDBACK, {"protocol": "secagg"}, failure=failure)
    results = rejoining.federate(monkeypatch, config, Pull, SILOS, VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [line["survivors"] for line in records(tmp_path)]
    assert present == [[*(WITHOUT if FAILS <= number < BACK else ALL)] for number in range(1, ROUNDS + 1)]
    began = [ALL if number == FAILS else here for number, here in enumerate(present, 1)]
    expected = compressed_fedavg(present, FEEDBACK, began=began, back=(VICTIM, BACK, BEHIND))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)
    forgetful = compressed_fedavg(present, FEEDBACK, began=began, back=(VICTIM, BACK, 0))
    assert np.abs(expected - forgetful).max() > 1e-3


RESUMED = [
    {"bits": 8},
    FEEDBACK,
    {"name": "random_k", "ratio": 0.3},
    {"name": "random_k", "ratio": 0.3} | FEEDBACK,
]


@pytest.mark.parametrize("compress", mostly_long(RESUMED, 3), ids=str)
def test_it_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compress: Any) -> None:
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    secure, killed, never = {"protocol": "secagg"}, tmp_path / "killed", tmp_path / "never"
    assert federate(settings(killed, compress, secure, 6, failure=faults)) == [None] * SILOS
    federate(settings(killed, compress, secure, 6), resume=True)
    federate(settings(never, compress, secure, 6))
    assert (model_of(killed) == model_of(never)).all()
    for silo in ALL:
        left, other = (tree_of(run, 6, silo)["error_feedback"]["residuals"] for run in (killed, never))
        assert left.keys() == ({"update/a", "update/b"} if "error_feedback" in compress else set())
        assert all((left[name] == other[name]).all() and left[name].any() for name in left)


def test_a_server_that_lies_about_a_sum_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silo that checks its slice has held the masked sum, and opens it, too."""
    honest = OpenableSum.words

    def words(opened: OpenableSum, index: int, name: str) -> Any:
        found = honest(opened, index, name)
        if opened.collection.comm.rank == index == 1:
            found[3] += 1
        return found

    monkeypatch.setattr(OpenableSum, "words", words)
    with pytest.raises(ProtocolError, match=r"silo 1's update of slice 1 and silo 2's recomputation"):
        federate(settings(tmp_path, {"bits": 8}, {"protocol": "secagg"}))


@pytest.mark.long
def test_silos_that_sit_a_round_out_keep_what_they_have_not_sent(tmp_path: Path) -> None:
    run = {"name": "f", "dir": str(tmp_path), "display": "none", "rounds": ROUNDS, "silos_per_round": 3}
    config = settings(tmp_path, FEEDBACK, {"protocol": "secagg"}, run=run)
    federate(config)
    drawn = [line["drawn"] for line in records(tmp_path)]
    assert {len(one) for one in drawn} == {3}
    expected = compressed_fedavg(drawn, FEEDBACK, began=[ALL] * ROUNDS, stated=drawn)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)


def packets(path: Path, name: str, *, feedback: bool, **sections: Any) -> Any:
    compress = {"name": name, "error_feedback": feedback, **PACKETS[name][0]}
    return settings(path, compress, {"protocol": "plain"}, **sections)


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", sorted(PACKETS))
@pytest.mark.parametrize("feedback", [False, True])
def test_packets_are_averaged_as_in_the_reference(tmp_path: Path, name: str, feedback: bool) -> None:
    results = federate(packets(tmp_path, name, feedback=feedback))
    assert len({one["model_sha256"] for one in results}) == 1
    expected = packets_fedavg([ALL] * ROUNDS, name, feedback=feedback)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("at", mostly_long(["train", "collect first", "step"], 1))
def test_a_silo_with_packets_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at {at}"]}
    results = federate(packets(tmp_path, "top_k", feedback=True, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [line["survivors"] for line in records(tmp_path)]
    assert (VICTIM in present[FAILS - 1]) == (at == "step")
    expected = packets_fedavg(present, "top_k", feedback=True)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)


def test_a_silo_with_packets_dies_while_the_others_read_its_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packet is with all by then: the sum is with it, or is made again without it."""
    prepare(monkeypatch)
    honest, rounds = PacketSum._mean, threading.local()

    def mean(gathered: PacketSum, *of: Any) -> Any:
        rounds.number = getattr(rounds, "number", 0) + 1
        if (gathered._group.silo_id, rounds.number) == (VICTIM, FAILS):
            raise SimulatedCrash
        return honest(gathered, *of)

    monkeypatch.setattr(PacketSum, "_mean", mean)
    results = federate(packets(tmp_path, "top_k", feedback=True, failure={"policy": "shrink"}))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    expected = packets_fedavg([line["survivors"] for line in records(tmp_path)], "top_k", feedback=True)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-6)


@pytest.mark.long
def test_a_run_of_packets_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 4 at train" for silo in ALL]}
    killed, never = tmp_path / "killed", tmp_path / "never"
    assert federate(packets(killed, "qsgd", feedback=True, failure=faults)) == [None] * SILOS
    federate(packets(killed, "qsgd", feedback=True), resume=True)
    federate(packets(never, "qsgd", feedback=True))
    assert (model_of(killed) == model_of(never)).all()


def sent_by(monkeypatch: pytest.MonkeyPatch, liar: int, message: Any) -> None:
    """Let a silo send other messages: message(honest)."""
    honest = PacketSum._message

    def lie(gathered: PacketSum, contribution: Any, round_number: int) -> bytes:
        own = honest(gathered, contribution, round_number)
        return message(own) if gathered._group.silo_id == liar else own

    monkeypatch.setattr(PacketSum, "_message", lie)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    "message",
    [
        lambda own: b"",
        lambda own: own[:-2],
        lambda own: own + b"x",
        lambda own: own[:16] + b"\xff" * 8 + own[24:],
        lambda own: b"\xff" * len(own),
    ],
)
def test_a_packet_that_is_none_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: Any
) -> None:
    sent_by(monkeypatch, 2, message)
    with pytest.raises(ProtocolError, match=r"silo 2's packet is none of TopK"):
        federate(packets(tmp_path, "top_k", feedback=False))


def test_a_packet_whose_values_overflow_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scale and codes are numbers, and their products are none of float32."""
    scales = np.full(-(-D // 64), 3e38, np.float32).tobytes()
    sent_by(monkeypatch, 1, lambda own: own[:24] + scales + b"\x77" * (len(own) - 24 - len(scales)))
    single = {"full_batch": True, "steps": 1, "lr": LR}
    with pytest.raises(ProtocolError, match=r"silo 1's packet is none of QSGD"):
        federate(packets(tmp_path, "qsgd", feedback=False, train=single))


def test_a_silo_that_gives_two_silos_different_packets_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, mine = PacketSum._exchange, threading.local()
    gathered = ThreadCommunicator.allgather_bytes

    def exchange(one: PacketSum, *of: Any) -> Any:
        mine.lied_to = one._group.silo_id == 3
        return honest(one, *of)

    def lie(comm: ThreadCommunicator, payload: bytes) -> list[bytes]:
        every = gathered(comm, payload)
        if getattr(mine, "lied_to", False):
            every[1], mine.lied_to = every[1][:-1] + bytes([every[1][-1] ^ 1]), False
        return every

    monkeypatch.setattr(PacketSum, "_exchange", exchange)
    monkeypatch.setattr(ThreadCommunicator, "allgather_bytes", lie)
    with pytest.raises(ProtocolError, match=r"silos have received different packets from silo 1"):
        federate(packets(tmp_path, "top_k", feedback=False))
