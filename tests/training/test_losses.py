"""Losses that a GPU holds are read together, and what is said of them is what a reader of each would say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from silofl.errors import TrainingError, UserCodeError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedsgd import FedSGD
from silofl.training import losses as module
from silofl.training.losses import MOST, Losses, NotFinite
from tests.training import test_divergence as diverging
from tests.training.fake_gpu import GPU, FakeGpu, gpus

STEPS = 300


def added(values: list[float], gpu: bool) -> tuple[Losses, NotFinite | None, int]:
    """The sum of all, the first that is not finite, and the step at which that was known."""
    losses = Losses()
    for number, value in enumerate(values, 1):
        one = torch.tensor(value, device=GPU if gpu else None)
        if (found := losses.add(one)) is not None:
            return losses, found, number
    return losses, losses.look(), len(values)


def test_the_sum_of_a_gpu_is_that_of_the_host_bit_for_bit_and_waits_a_few_times() -> None:
    values = torch.rand(STEPS, generator=torch.Generator().manual_seed(0)).tolist()
    host, _, _ = added(values, gpu=False)
    with FakeGpu() as fake:
        gpu, found, _ = added(values, gpu=True)
    assert (gpu.total, gpu.steps, found) == (host.total, STEPS, None)
    assert sum(fake.waits.values()) <= math.log2(MOST) + STEPS / MOST + 1


@pytest.mark.parametrize("step", [1, 2, 3, 100, STEPS])
def test_the_first_loss_that_is_not_finite_is_named(step: int) -> None:
    values = [1.0] * STEPS
    values[step - 1], values[-1] = math.inf, math.nan if step < STEPS else math.inf
    with FakeGpu():
        _, found, known = added(values, gpu=True)
    assert found == NotFinite(step, math.inf)
    assert known < step + MOST
    assert added(values, gpu=False)[1:] == (found, step)


def test_losses_that_take_long_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    losses = Losses()
    with FakeGpu() as fake:
        for _ in range(20):
            now[0] += 2 * module.WINDOW_S
            losses.add(torch.tensor(1.0, device=GPU))
    assert sum(fake.waits.values()) == 20


class Steep(diverging.Steep):
    """What it is made of may not become infinite, as a distribution of torch checks its parameters."""

    def loss(self, model: Any, batch: Any) -> Tensor:
        if not bool(model.weight.isfinite().all()):
            raise ValueError("invalid parameter")
        return super().loss(model, batch)


class Slip(diverging.Plain):
    def loss(self, model: Any, batch: Any) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 5:
            raise ValueError("a slip")
        return super().loss(model, batch)


def fit(task: Any, device: str, strategy: Any = None, **train: Any) -> str:
    settings = {"batch_size": 4, "lr": 1.0, **train}
    one = Silo(diverging.configuration.parse({"train": settings}), task, 1, 3, device)
    whole, count = one.initial(), one.model.trainable
    try:
        one.fit(RoundStart({"model": whole[:count]}, whole[count:], 2, strategy or FedAvg()))
    except (TrainingError, UserCodeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("strategy", [FedAvg(), FedSGD()], ids=["fedavg", "fedsgd"])
@pytest.mark.parametrize("task", [diverging.Missing, diverging.Logarithm, diverging.Root, diverging.Steep])
def test_a_gpu_says_of_training_that_diverged_what_the_host_says(
    task: Any, strategy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = {"lr": 1e20, "steps": 30}
    host = fit(task(), "cpu", strategy, **many)
    with gpus(monkeypatch), FakeGpu():
        assert fit(task(), "cuda:0", strategy, **many) == host
    assert host or (task in (diverging.Root, diverging.Steep) and isinstance(strategy, FedSGD))


def test_a_model_that_is_not_finite_is_told_before_what_it_makes_a_task_raise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with gpus(monkeypatch), FakeGpu():
        assert "training diverged (loss" in fit(Steep(), "cuda:0", lr=1e20, steps=30)
        assert "the task's loss() raised ValueError" in fit(Slip(), "cuda:0", lr=0.01, steps=9)


@pytest.mark.long
def test_a_training_step_on_a_gpu_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for what a round begins and ends with, an epoch's order, and a few looks at the losses."""
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    short, long = MOST, 5 * MOST

    def waits(steps: int, **train: Any) -> int:
        with FakeGpu() as fake:
            assert not fit(diverging.Plain(), "cuda:0", lr=0.01, steps=steps, batch_size=1, **train)
        return sum(fake.waits.values())

    with gpus(monkeypatch):
        for train in ({}, {"clip_norm": 1.0}, {"optimizer": "AdamW"}):
            epochs = (long - short) // 8  # of eight samples
            assert waits(long, **train) - waits(short, **train) <= epochs + (long - short) // MOST + 1
