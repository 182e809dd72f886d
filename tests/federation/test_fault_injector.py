"""Injected faults happen once, on their silo, at their step."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silofl.comm.threads import run_in_threads
from silofl.errors import ProtocolError
from silofl.faults import SENDING, Fault, parse
from silofl.federation.failure import fault_injector
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from tests.federation.threads import Normalized, federate, prepare, records, settings


class Marks:
    """All that a fault injector asks of a communicator."""

    def __init__(self) -> None:
        self.corrupted = 0

    def on_mark(self, note: Any) -> None:
        self.mark = note

    def corrupt_next(self) -> None:
        self.corrupted += 1


def injector(*lines: str, silo: int = 2) -> tuple[FaultInjector, Marks, list[str]]:
    """A fault injector of silo 2, what marks its steps, and a list that fills with its deaths."""
    comm, deaths = Marks(), list[str]()
    faults = [parse(line) for line in lines]
    made = FaultInjector(comm, faults, silo, die=lambda: deaths.append("dead"))  # type: ignore[arg-type]
    return made, comm, deaths


def test_a_fault_fires_once_at_its_step_of_its_round_on_its_silo(capfd: pytest.CaptureFixture[str]) -> None:
    made, comm, deaths = injector("kill silo 2 round 5 at agree", "kill silo 1 round 1 at train")
    fired: list[tuple[int, str]] = []
    for number in range(8):
        made.round = number
        for step in ("train", "agree", "reveal", "agree"):
            comm.mark(step)
            fired += [(number, step)] if len(deaths) > len(fired) else []
    assert fired == [(5, "agree")]
    assert capfd.readouterr().err == "silofl: injected fault: kill silo 2 in round 5 at agree\n"


def test_a_fault_that_never_happened_is_told_at_the_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sum in the clear has nothing to reveal."""
    faults = ["slow silo 0 round 1 at train x1", "slow silo 1 round 1 at reveal x2"]
    plain = {"failure": {"inject": faults}, "secure": {"protocol": "plain"}, "run": {"rounds": 1}}
    federate(settings(tmp_path / "run", **plain), 3)
    told = [line for line in capfd.readouterr().err.splitlines() if "injected fault" in line]
    assert told == [
        "silofl: injected fault: slow silo 0 in round 1 at train",
        "silofl: injected fault never happened: slow silo 1 in round 1 at reveal",
    ]


def test_files_of_a_round_may_be_published_in_the_next_one() -> None:
    made, comm, deaths = injector("kill silo 2 round 5 at checkpoint rename", "kill silo 2 round 5 at unmask")
    made.round = 6
    comm.mark("unmask")
    assert not deaths
    comm.mark("checkpoint rename")
    assert deaths


def test_who_came_back_has_no_fault_of_an_earlier_round() -> None:
    made, comm, deaths = injector(
        "kill silo 2 round 5 at checkpoint agree", "kill silo 2 round 7 at checkpoint agree"
    )
    made.skip(5)
    made.round = 6
    comm.mark("checkpoint agree")
    assert not deaths
    made.round = 7
    comm.mark("checkpoint agree")
    assert deaths


class Time:
    """Seconds that pass only as somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1e-3)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(fault_injector, "time", made)
    return made


def test_a_slow_step_takes_so_many_times_as_long(clock: Time) -> None:
    made, comm, _ = injector("slow silo 2 round 1 at train x5")
    made.round = 1
    comm.mark("train")
    clock.now += 2.0
    comm.mark("collect first")
    assert clock.now == pytest.approx(110.0, abs=0.1)
    comm.mark("collect last")
    comm.mark("train")
    clock.now += 2.0
    comm.mark("collect first")
    assert clock.now == pytest.approx(112.0, abs=0.1)


def test_steps_of_a_thread_beside_do_not_end_a_slow_one(clock: Time) -> None:
    """Keys are made while a silo trains: their steps are marked in the middle of its own."""
    made, comm, _ = injector("slow silo 2 round 1 at train x5")
    made.round = 1
    comm.mark("train")
    beside = threading.Thread(target=comm.mark, args=("advertise",))
    beside.start()
    beside.join()
    assert clock.now == 100.0
    clock.now += 2.0
    comm.mark("collect first")
    assert clock.now == pytest.approx(110.0, abs=0.1)


def test_a_slow_silo_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    stretched: list[float] = []

    def sleep(seconds: float) -> None:
        stretched.append(seconds)
        time.sleep(seconds)

    own = SimpleNamespace(sleep=sleep, perf_counter=time.perf_counter)
    monkeypatch.setattr(fault_injector, "time", own)
    config = settings(tmp_path, failure={"inject": ["slow silo 1 round 2 at train x3"]})
    assert len({result["model_sha256"] for result in federate(config, 3)}) == 1
    assert stretched
    assert [line["failed"] for line in records(tmp_path)] == [[]] * 4


@pytest.mark.covering(0)
@pytest.mark.parametrize("step", SENDING)
def test_a_corrupt_message_is_refused_by_the_name_of_its_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    prepare(monkeypatch)
    config = settings(tmp_path, failure={"inject": [f"corrupt silo 2 round 3 at {step}"]})
    results = []

    def rank(comm: Any) -> None:
        try:
            train(config, Normalized(), comm=comm)
        except ProtocolError as error:
            results.append(error)
            raise

    with pytest.raises(ProtocolError):
        run_in_threads(4, rank, timeout_s=60)
    assert {error.sender for error in results} == {2}
    assert all("silo 2" in str(error) for error in results)
    assert [line["round"] for line in records(tmp_path)] == [1, 2]


def test_faults_are_for_the_right_silo() -> None:
    fault = Fault("kill", 2, 1, "train")
    for silo in range(4):
        made, comm, deaths = injector("kill silo 2 round 1 at train", silo=silo)
        made.round = fault.round
        comm.mark(fault.step)
        assert bool(deaths) == (silo == 2)
