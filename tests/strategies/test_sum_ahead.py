"""Sums that go on while the last local steps are taken, and what fails meanwhile."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import StoppedError, UserCodeError
from silofl.federation.loop import train
from silofl.federation.strategy_half import LOCAL
from silofl.topologies.fragmented_server import FragmentedServer
from tests.campaigns import mostly_long
from tests.federation.test_rejoining import tree_of
from tests.federation.threads import prepare, records
from tests.strategies.test_streaming_diloco import (
    CASES,
    ROUNDS,
    SILOS,
    STEPS,
    Cut,
    model_of,
    reference,
    settings,
)  # fmt: skip
from tests.strategies.test_streaming_diloco import federate as cut

STREAMED = CASES[1]
PATIENCE_S = 20.0


class Told:
    """What silos have reached, by their numbers: the round, its steps, and whether its sum is there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.round, self.steps = defaultdict[int, int](int), defaultdict[int, int](int)
        self.summed = defaultdict[int, threading.Event](threading.Event)
        begin, reduce = FragmentedServer.begin, FragmentedServer.reduce

        def begun(server: Any, number: int) -> None:
            begin(server, number)
            silo = server._servers[0]._group.silo_id
            self.round[silo], self.steps[silo] = number, 0
            self.summed[silo].clear()

        def reduced(server: Any, *given: Any, **more: Any) -> None:
            reduce(server, *given, **more)
            self.summed[server._servers[0]._group.silo_id].set()

        monkeypatch.setattr(FragmentedServer, "begin", begun)
        monkeypatch.setattr(FragmentedServer, "reduce", reduced)


class Watched(Cut):
    """A silo's task, which does what `at_step` does before each step of a round."""

    def __init__(self, silo: int, told: Told, at_step: Any) -> None:
        self.silo, self.told, self.at_step = silo, told, at_step

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.told.steps[self.silo] += 1
        self.at_step(self.silo, self.told)
        return super().loss(model, batch)


def federate(config: Config, told: Told, at_step: Any, *, resume: bool = False) -> None:
    def rank(comm: Any) -> None:
        torch.set_num_threads(1)
        train(config, Watched(comm.rank, told, at_step), comm=comm, resume=resume)

    run_in_threads(SILOS, rank, timeout_s=110)


@pytest.mark.parametrize("protocol", mostly_long(["plain", "secagg", "additive"], 1))
def test_all_of_a_sum_is_there_before_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """A silo takes the last of five steps only when the sum of what it was after three is complete."""

    def wait(silo: int, told: Told) -> None:
        if told.round[silo] and told.steps[silo] == STEPS:
            assert told.summed[silo].wait(PATIENCE_S)

    told = Told(monkeypatch)
    federate(settings(tmp_path, STREAMED, 4, secure={"protocol": protocol}), told, wait)
    assert set(told.steps.values()) == {STEPS}


@pytest.mark.long
@pytest.mark.parametrize("step", mostly_long([1, STEPS], 1))
@pytest.mark.parametrize("protocol", mostly_long(["plain", "secagg"], 1))
def test_a_silo_whose_training_fails_ends_the_run_whether_the_sum_has_begun_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, step: int
) -> None:
    """On all ranks by its name; the round is not complete, and is taken again to the bit by a resume."""

    def fail(silo: int, told: Told) -> None:
        if (silo, told.round[silo], told.steps[silo]) == (1, 5, step):
            raise ZeroDivisionError

    told, secure = Told(monkeypatch), {"protocol": protocol}
    failed, never = tmp_path / "failed", tmp_path / "never"
    with pytest.raises(UserCodeError, match=r"silo 1.*ZeroDivisionError"):
        federate(settings(failed, STREAMED, 7, secure=secure), told, fail)
    assert told.summed[0].is_set() == (step == STEPS)
    assert len(records(failed)) == 4
    for path in (failed, never):
        federate(settings(path, STREAMED, 7, secure=secure), told, lambda *_: None, resume=path == failed)
    assert (model_of(failed) == model_of(never)).all()


@pytest.mark.long
def test_a_silo_that_sits_a_round_out_takes_part_in_its_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With zeros, and no local step: the round was opened without it before the job was restarted."""
    prepare(monkeypatch)
    faults = {"policy": "shrink", "inject": ["kill silo 3 round 2 at train", "kill silo 1 round 4 at step"]}
    sections = {"secure": {"protocol": "secagg", "bits": 32}, "checkpoint": {"keep": 9}}
    with pytest.raises(StoppedError, match="2 of 4 silos are left"):
        cut(settings(tmp_path, STREAMED, 7, failure=faults, **sections))
    cut(settings(tmp_path, STREAMED, 7, **sections), resume=True)
    present = [line["survivors"] for line in records(tmp_path)]
    assert present == [[0, 1, 2, 3], *([[0, 1, 2]] * 3), *([[0, 1, 2, 3]] * 3)]
    held = [LOCAL in tree_of(tmp_path, 4, silo)["silo"]["strategy"] for silo in range(SILOS)]
    assert held == [True, True, True, False]  # it had committed nothing, and begins with the shared model
    expected = reference(STREAMED, present, back=(3, 5, 0))
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("protocol", "bound"), mostly_long([("plain", 1e-9), ("secagg", 1e-5)], 1))
def test_silos_that_are_not_drawn_take_up_later_what_was_summed(
    tmp_path: Path, protocol: str, bound: float
) -> None:
    """With partial participation no sum begins ahead, and a silo's model waits for its next round."""
    run = {"name": "f", "dir": str(tmp_path), "display": "none", "rounds": ROUNDS, "silos_per_round": 3}
    secure = {"protocol": protocol} | ({"bits": 32, "threshold": 3} if protocol == "secagg" else {})
    cut(settings(tmp_path, STREAMED | {"alpha": 0.25}, run=run, secure=secure))
    present = [line["survivors"] for line in records(tmp_path)]
    assert {len(one) for one in present} == {3}
    expected = reference(STREAMED | {"alpha": 0.25}, present)
    np.testing.assert_allclose(model_of(tmp_path), expected, rtol=0, atol=bound)
