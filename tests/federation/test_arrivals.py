"""Arrivals by the clock: deadlines, bounds of staleness, silos that stall, and updates that count once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl.errors import ProtocolError, SiloflError, StoppedError
from silofl.faults import Fault
from silofl.federation import loop
from silofl.federation.background_training import BackgroundTraining, TrainingEnded, batch_made
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.update_ledger import UpdateLedger
from tests.federation.paced import asynchronous, run_paced
from tests.federation.test_asynchronous import PLAIN, SECURE, refuse_repeats
from tests.federation.threads import prepare, records

SLOW = {2: 0.15}
"""Of three silos one that takes 0.3 s for a round's two steps, and half of that to try one."""


def test_others_do_not_wait_for_a_slow_silo(tmp_path: Path) -> None:
    """It is not in every sum; its model stays its own while it trains and others evaluate."""
    config = asynchronous(tmp_path, {"buffer": 2}, run={"rounds": 10}, secure=PLAIN)
    results = run_paced(config, SLOW, 3)
    lines = records(tmp_path)
    assert len({one["model_sha256"] for one in results}) == 1
    assert sum(2 in line["survivors"] for line in lines) < len(lines)
    took = [line["train_seconds"] for line in lines]
    assert all(
        (seconds is None) == (silo not in line["survivors"])
        for line, each in zip(lines, took, strict=True)
        for silo, seconds in enumerate(each)
    )


def test_a_deadline_opens_a_sum_and_a_late_update_is_in_a_later_one(tmp_path: Path) -> None:
    topology = {"buffer": 3, "deadline_s": 0.05}
    run_paced(asynchronous(tmp_path, topology, run={"rounds": 8}, secure=PLAIN), SLOW, 3)
    lines = records(tmp_path)
    assert lines[0]["survivors"] == [0, 1]
    late = [line["staleness"]["2"] for line in lines if 2 in line["survivors"]]
    assert late
    assert min(late) >= 1
    refuse_repeats(lines)


def test_a_secure_sum_waits_beyond_the_deadline_for_the_silos_that_it_needs(tmp_path: Path) -> None:
    topology = {"buffer": 3, "deadline_s": 0.001}
    run_paced(asynchronous(tmp_path, topology, run={"rounds": 2}, secure=SECURE), {2: 0.05}, 3)
    assert all(len(line["survivors"]) == 3 for line in records(tmp_path))


def test_no_update_is_staler_than_allowed(tmp_path: Path) -> None:
    topology = {"buffer": 1, "max_staleness": 2}
    run_paced(asynchronous(tmp_path, topology, run={"rounds": 9}, secure=PLAIN), SLOW, 3)
    lines = records(tmp_path)
    assert max(one for line in lines for one in line["staleness"].values()) == 2
    assert any(2 in line["survivors"] for line in lines)


def test_training_that_fails_ends_the_run_by_name_on_all(tmp_path: Path) -> None:
    config = asynchronous(tmp_path, {"buffer": 2}, train={"lr": 1e30}, secure=PLAIN)
    results = run_paced(config, {}, 3)
    assert all(isinstance(one, SiloflError) for one in results)
    assert len({str(one) for one in results}) == 1
    assert "silo" in str(results[0])


def test_training_that_makes_no_batch_ends_the_run_by_name(tmp_path: Path) -> None:
    """Where no watchdog ends the rank: as of a Python program's."""
    failure = {"policy": "shrink", "silent_s": 0.5}
    config = asynchronous(tmp_path, {"buffer": 3}, failure=failure, secure=PLAIN)
    results = run_paced(config, {1: 1.2}, 3)
    assert {str(one) for one in results} == {
        "silo 1: its local training has made no batch for 0.5 s (failure.silent_s)"
    }


def test_training_whose_result_nobody_wants_ends_at_its_next_batch() -> None:
    reached, ended = threading.Event(), []

    def train() -> None:
        try:
            while True:
                batch_made()
                reached.set()
                time.sleep(0.001)
        except TrainingEnded:
            ended.append(True)
            raise

    training: BackgroundTraining[None] = BackgroundTraining(lambda: None, lambda: None)
    training.begin(train)
    assert reached.wait(5)
    assert training.busy
    assert not training.over
    assert not training.stalled(60)
    batch_made()  # of another thread, which goes on
    assert training.end(60)
    assert ended == [True]


def test_training_that_hangs_is_not_waited_for_longer_than_a_silo_may_be_silent() -> None:
    training: BackgroundTraining[None] = BackgroundTraining(lambda: None, lambda: None)
    training.begin(lambda: time.sleep(3))
    assert not training.end(0.2)


def test_an_update_that_would_count_twice_is_refused_by_name() -> None:
    ledger = UpdateLedger()
    ledger.refuse_repeated({0: 0, 1: 0}, 1)
    ledger.count((0,), 1)
    ledger.count((0,), 1)  # a round that is taken again
    ledger.refuse_repeated({0: 1, 1: 0}, 2)
    ledger.count((0, 1), 2)
    assert (ledger.counts, ledger.last) == ({0: 2, 1: 1}, {0: 2, 1: 2})
    for base in (1, 3):
        with pytest.raises(
            ProtocolError, match=r"silo 0 tells in round 3 .* an update would count twice"
        ) as caught:
            ledger.refuse_repeated({0: base, 1: 2}, 3)
        assert caught.value.sender == 0
    assert UpdateLedger.from_json(ledger.to_json()) == ledger


@contextmanager
def killing(monkeypatch: pytest.MonkeyPatch, kills: list[Fault]) -> Iterator[None]:
    """Inject these, also into a job that is resumed, which injects none of its own."""
    with monkeypatch.context() as patched:
        patched.setattr(loop, "FaultInjector", lambda comm, _, silo: FaultInjector(comm, kills, silo))
        yield


def test_a_round_that_was_opened_with_a_silo_that_dies_stays_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a restarted job, while others wait for its update: no rank waits for ever."""
    prepare(monkeypatch)
    config = asynchronous(tmp_path, {"buffer": 4}, run={"rounds": 5}, secure=SECURE)
    with killing(monkeypatch, [Fault("kill", silo, 3, "step") for silo in range(4)]):
        assert run_paced(config, {}, 4) == [None] * 4
    with killing(monkeypatch, [Fault("kill", 2, 3, "train")]):
        results = run_paced(config, {3: 0.02}, 4, resume=True)
    assert results[2] is None
    left = {str(one) for one in results if isinstance(one, StoppedError)}
    assert len(left) == 1
    assert "round 3 may have been opened for silos 0, 1, 2 and 3 before" in left.pop()
    assert len({one["model_sha256"] for one in run_paced(config, {}, 4, resume=True)}) == 1


def campaign(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, rounds: int, jobs: int, secure: Any, seed: int
) -> None:
    """A run whose job is killed so often, at random steps; in the end every update has counted once."""
    prepare(monkeypatch)
    rng = np.random.default_rng(seed)
    topology, steps = {"buffer": 3, "max_staleness": 6}, ("step", "allgather", "between rounds", "evaluate")
    pace = {0: 0.0, 1: 0.0005, 2: 0.001, 3: 0.004}
    config = asynchronous(path, topology, run={"rounds": rounds}, secure=secure)
    for job in range(jobs):
        last = job == jobs - 1
        reached = len(records(path)) if job else 0
        number = reached + int(rng.integers(2, max(3, (rounds - reached) // (jobs - job))))
        silos = () if last else range(4)
        kills = [Fault("kill", silo, number, str(rng.choice(steps))) for silo in silos]
        with killing(monkeypatch, kills):
            results = run_paced(config, pace, 4, resume=job > 0, timeout_s=300)
        if last:
            assert len({one["model_sha256"] for one in results}) == 1
        else:
            assert all(one is None or isinstance(one, StoppedError) for one in results), results
    lines = records(path)
    assert [line["round"] for line in lines] == list(range(1, rounds + 1))
    counts = refuse_repeats(lines)
    assert min(counts.values()) > rounds // 8
    assert sum(counts.values()) == sum(len(line["survivors"]) for line in lines) >= 3 * rounds


def test_each_update_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    campaign(tmp_path, monkeypatch, rounds=12, jobs=3, secure=SECURE, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("secure", [PLAIN, SECURE], ids=["plain", "secagg"])
def test_each_of_a_thousand_updates_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secure: Any
) -> None:
    campaign(tmp_path, monkeypatch, rounds=334, jobs=8, secure=secure, seed=1)
