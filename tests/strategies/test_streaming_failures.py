"""Streaming DiLoCo while silos fail, come back, resume, or lie: each fragment as the whole model is."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.errors import ProtocolError
from silofl.federation import federation as whole
from silofl.federation.loop import train
from silofl.federation.strategy_half import LOCAL
from silofl.strategies.streaming_diloco import StreamingDiLoCo
from silofl.topologies.fragmented_server import FragmentedServer
from tests.campaigns import mostly_long
from tests.conftest import ROOT, Start
from tests.federation import rejoining
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare, records
from tests.strategies import naive
from tests.strategies.test_streaming_diloco import (
    ALL,
    CASES,
    LR,
    ROUNDS,
    SILOS,
    STEPS,
    Cut,
    federate,
    model_of,
    reference,
    settings,
)  # fmt: skip

VICTIM, FAILS, BACK = 2, 5, 8
FAULT = f"kill silo {VICTIM} round {FAILS} at train"
BEHIND = FAILS - 2
"""The newest round that a silo has committed for certain when it fails."""
WITHOUT = tuple(silo for silo in ALL if silo != VICTIM)
STREAMED = CASES[1]
WAYS = [({"protocol": "plain"}, 1e-9), ({"protocol": "secagg", "bits": 32}, 1e-5)]
SECURE = pytest.mark.parametrize(("secure", "bound"), WAYS, ids=str)
MASKED = pytest.mark.parametrize(("secure", "bound"), mostly_long(WAYS, 1), ids=str)


@pytest.mark.covering(1)
@MASKED
@pytest.mark.parametrize("at", mostly_long(["train", "collect first", "step"], 1))
def test_a_silo_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: dict[str, Any], bound: float, at: str
) -> None:
    """As it trains, or within a round whose sum it is in or is not: fragments in turn go on without it."""
    prepare(monkeypatch)
    failure = {"policy": "shrink", "inject": [f"kill silo {VICTIM} round {FAILS} at {at}"]}
    results = federate(settings(tmp_path, STREAMED, secure=secure, failure=failure))
    assert [silo for silo, result in enumerate(results) if result is None] == [VICTIM]
    present = [line["survivors"] for line in records(tmp_path)]
    assert present[: FAILS - 1] + present[FAILS:] == [[*ALL]] * (FAILS - 1) + [[*WITHOUT]] * (ROUNDS - FAILS)
    assert (VICTIM in present[FAILS - 1]) == (at == "step")
    np.testing.assert_allclose(model_of(tmp_path), reference(STREAMED, present), rtol=0, atol=bound)


@MASKED
def test_a_silo_comes_back_with_its_model_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: dict[str, Any], bound: float
) -> None:
    """It has missed sums of all three fragments, and takes them up as it begins."""
    prepare(monkeypatch)
    failure = {"policy": "respawn", "inject": [FAULT]}
    config = settings(tmp_path, STREAMED, secure=secure, failure=failure)
    results = rejoining.federate(monkeypatch, config, Cut, SILOS, VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    present = [line["survivors"] for line in records(tmp_path)]
    assert present == [[*(WITHOUT if FAILS <= number < BACK else ALL)] for number in range(1, ROUNDS + 1)]
    expected = reference(STREAMED, present, back=(VICTIM, BACK, BEHIND))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)
    assert np.abs(expected - reference(STREAMED, present)).max() > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("protocol", mostly_long(["plain", "secagg"], 1))
def test_it_is_resumed_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """The job is killed in round 6, between two turns of a fragment, and resumed from what it committed."""
    prepare(monkeypatch)
    faults = {"inject": [f"kill silo {silo} round 6 at train" for silo in ALL]}
    secure, killed, never = {"protocol": protocol}, tmp_path / "killed", tmp_path / "never"
    assert federate(settings(killed, STREAMED, 9, secure=secure, failure=faults)) == [None] * SILOS
    federate(settings(killed, STREAMED, 9, secure=secure), resume=True)
    federate(settings(never, STREAMED, 9, secure=secure))
    assert (model_of(killed) == model_of(never)).all()
    for silo in ALL:
        own, other = (tree_of(run, 9, silo)["silo"]["strategy"][LOCAL] for run in (killed, never))
        assert own.tobytes() == other.tobytes()
        assert (own != model_of(never)).any()
        states = [tree_of(run, 9, silo)["server"] for run in (killed, never)]
        velocities = [[state[k]["strategy"]["velocity"].tobytes() for k in "012"] for state in states]
        assert velocities[0] == velocities[1]


class Lost(FragmentedServer):
    """One that a silo dies in as it is made anew."""

    def rebuild(self, newcomers: tuple[int, ...] = ()) -> None:
        """See `Topology`."""
        make = self._servers[1].rebuild

        def dying(newcomers: tuple[int, ...] = ()) -> None:
            group = self._servers[0]._group  # type: ignore[attr-defined]
            if group.silo_id == 3 and len(group.members) == 4:
                raise SimulatedCrash
            make(newcomers)

        self._servers[1].rebuild = dying  # type: ignore[method-assign]
        super().rebuild(newcomers)


@pytest.mark.long
@MASKED
def test_a_silo_dies_as_fragments_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: dict[str, Any], bound: float
) -> None:
    """The first of them is for four silos then, and the others for three: it is made once more."""
    prepare(monkeypatch)
    monkeypatch.setattr(whole, "FragmentedServer", Lost)
    failure = {"policy": "shrink", "inject": ["kill silo 4 round 2 at train"]}
    monkeypatch.setattr(naive, "SIZES", (*naive.SIZES, 17))
    secure |= {"threshold": 3} if secure["protocol"] == "secagg" else {}
    results = federate(settings(tmp_path, STREAMED, 9, secure=secure, failure=failure), silos=5)
    assert [silo for silo, result in enumerate(results) if result is None] == [3, 4]
    present = [line["survivors"] for line in records(tmp_path)]
    assert present == [[0, 1, 2, 3, 4], [0, 1, 2, 3], *([[0, 1, 2]] * 7)]
    np.testing.assert_allclose(model_of(tmp_path), reference(STREAMED, present), rtol=0, atol=bound)


def test_a_server_of_a_fragment_that_lies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The silo that checks its slice takes the step of that fragment, too."""
    honest, mine = StreamingDiLoCo.step, threading.local()

    def step(self: StreamingDiLoCo, state: Any, shared: Any, total: Any) -> Any:
        after = honest(self, state, shared, total)
        if mine.silo == 0 and len(shared["model"]):
            shared["model"][0] += 1
        return after

    monkeypatch.setattr(StreamingDiLoCo, "step", step)
    config = settings(tmp_path, STREAMED, secure={"protocol": "secagg"})

    def rank(comm: Any) -> None:
        mine.silo = comm.rank
        train(config, Cut(), comm=comm)

    with pytest.raises(
        ProtocolError, match=r"silo 0's model of slice 0 and silo 1's recomputation of it differ"
    ):
        run_in_threads(SILOS, rank, timeout_s=60)


def test_another_fragment_s_values_are_had_in_common_before_a_sum_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local models are made of all fragments, also of those that a round does not sum."""
    begin = FragmentedServer.begin

    def changed(self: FragmentedServer, number: int) -> None:
        begin(self, number)
        group = self._servers[0]._group  # type: ignore[attr-defined]
        if (number, group.silo_id) == (5, 3):  # which sums the second one
            self.values[0] += 1e-3

    monkeypatch.setattr(FragmentedServer, "begin", changed)
    config = settings(tmp_path, STREAMED, secure={"protocol": "secagg"})
    run = config.run.model_copy(update={"evaluate_every": ROUNDS})  # metrics are of the whole model, too
    with pytest.raises(ProtocolError, match=r"given different global model"):
        federate(config.model_copy(update={"run": run}))
    assert len(records(tmp_path)) == 4


RUN = f"""
[run]
rounds = {ROUNDS}
display = "plain"
[task]
factory = "tests.strategies.test_streaming_diloco:Cut"
[train]
full_batch = true
steps = {STEPS}
lr = {LR}
dtype = "float64"
[strategy]
name = "streaming_diloco"
fragments = 3
delay = 2
alpha = 0.5
[secure]
bits = 32
"""


@pytest.mark.long
@pytest.mark.parametrize("at", ["train", "collect first"])
def test_real_silos_over_mpi_and_one_that_is_started_again(start: Start, tmp_path: Path, at: str) -> None:
    """Under `secagg`; one fails in round 5, and takes part in round 6 with its model of round 3."""
    fault = FAULT.replace("train", at)
    (tmp_path / "streaming.toml").write_text(RUN)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    more = ("--set", "failure.policy=respawn", "--set", f"failure.inject={json.dumps([fault])}")
    end = start(SILOS, "train", "streaming.toml", "--run", "run", *more, ulfm=True).wait(240)
    assert end.code == 0, end.out + end.err
    lines = records(tmp_path / "run")
    assert [(line["round"], line["rejoined"]) for line in lines if line["rejoined"]] == [
        (FAILS + 1, [VICTIM])
    ]
    present = [line["survivors"] for line in lines]
    assert present == [[*(WITHOUT if number == FAILS else ALL)] for number in range(1, ROUNDS + 1)]
    expected = reference(STREAMED, present, back=(VICTIM, FAILS + 1, BEHIND))
    np.testing.assert_allclose(model_of(tmp_path / "run"), expected, rtol=0, atol=1e-5)
