"""A silo of several ranks trains as one of one rank."""

from __future__ import annotations

import itertools
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from silofl.errors import DataError
from silofl.federation.local_work import RoundStart
from silofl.strategies.registry import build
from silofl.training.batches import Part
from silofl.training.seeding import derive
from tests.federation.team_in_threads import (
    SAMPLES,
    Alternating,
    Complex,
    Curve,
    Dropping,
    InThreads,
    Mapped,
    Normed,
    Words,
    assert_equal,
    made,
    points,
    settings,
    trained,
)

pytestmark = pytest.mark.usefixtures("threads_kept")


@pytest.mark.covering(1)
@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"epochs": 2}},
        {"train": {"steps": 5, "momentum": 0.9, "keep_optimizer": True}},
        {"train": {"full_batch": True, "steps": 3, "clip_norm": 0.5}},
        {"train": {"batch_size": 11, "optimizer": "AdamW", "drop_last": True}},
        {"strategy": {"name": "fedsgd"}},
        {"strategy": {"name": "fedsgd"}, "train": {"full_batch": True, "clip_norm": 0.1}},
        {"strategy": {"name": "scaffold"}, "train": {"clip_norm": 0.5}},
        {"strategy": {"name": "qfedavg"}},
    ],
    ids=str,
)
def test_several_ranks_send_what_one_does(ranks: int, sections: dict[str, Any]) -> None:
    """The last batch has 5 samples, or 1, in parts."""
    assert_equal(ranks, Curve(), **sections)


@pytest.mark.covering(0)
@pytest.mark.parametrize("task", [Mapped(), Words(), Alternating()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("full_batch", [False, True])
def test_whatever_the_samples_and_parameters_are(task: Curve, full_batch: bool) -> None:
    assert_equal(3, task, train={"momentum": 0.9, "batch_size": 11, "full_batch": full_batch})


def test_complex_parameters() -> None:
    one, several = (trained(ranks, Complex(), train={"dtype": "float32"})[0] for ranks in (1, 2))
    for expected, found in zip(one, several, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_batch_smaller_than_the_ranks_leaves_some_without() -> None:
    assert_equal(4, Mapped(), rounds=1, train={"batch_size": 7})  # the last has 2


def test_pruned_weights_have_no_part_in_the_norm_of_gradients() -> None:
    config = settings(2, train={"clip_norm": 0.01})
    silo, gathered = made(config, Curve())
    assert gathered is not None
    values, count = silo.initial(), silo.model.trainable
    kept = np.arange(count) % 2 == 0
    values[:count][~kept] = 0
    start = RoundStart({"model": values[:count]}, values[count:], 1, build(config.strategy), kept=kept)
    update = silo.fit(start).contribution.vectors["update"]
    gathered.close()
    alone, _ = made(settings(1, train={"clip_norm": 0.01}), Curve())
    np.testing.assert_allclose(update, alone.fit(start).contribution.vectors["update"], rtol=1e-10)


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", ["finetune", "ditto", "fedrep", "fedper"])
def test_personal_methods_that_take_the_steps_of_the_trainer(name: str) -> None:
    """Also those that they take for a silo alone."""
    layers = {"layers": ["2.*"]} if name in ("fedrep", "fedper") else {}
    before = InThreads.readings
    assert_equal(2, Curve(), personal={"name": name, **layers}, train={"clip_norm": 0.1})
    assert InThreads.readings - before == 2 * (1 + (name in ("ditto", "fedrep")))


def test_batch_norm_has_the_statistics_of_the_first_ranks_parts() -> None:
    """Its parts alone, as in torch's DistributedDataParallel: they are no mean over ranks."""
    sent, _ = trained(2, Normed(), rounds=1, train={"batch_size": SAMPLES, "lr": 1e-30})
    silo, _ = made(settings(1), Normed())
    with torch.no_grad():
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(round_seed()))
        part = points()[0][order[: Part(0, 2).of(SAMPLES)[1]]]
        values = silo.model.module[0](part)  # type: ignore[index, operator]
    change = sent[sorted(["update", "buffers"]).index("buffers")]
    np.testing.assert_allclose(change[:5], 0.1 * values.mean(0).numpy(), rtol=1e-10)


def round_seed() -> int:
    return derive(settings(1).run.seed, 0, 1)


def test_dropout_draws_on_every_rank_and_repeats_itself() -> None:
    first, second = trained(2, Dropping()), trained(2, Dropping())
    assert np.isfinite(first[0][0]).all()
    assert len(first[0]) == len(second[0])  # threads share torch's generator; processes do not


def test_a_model_of_batch_norm_takes_no_part_of_one_sample() -> None:
    with pytest.raises(DataError, match=r"the last has one for a rank of train.ranks_per_silo = 2"):
        made(settings(2, train={"batch_size": 20}), Normed())  # the last has 3


def test_seconds_are_counted_by_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    main, clock = threading.current_thread(), itertools.count()

    def monotonic() -> float:
        return float(next(clock)) if threading.current_thread() is main else 1e9 * time.perf_counter()

    monkeypatch.setattr("silofl.training.local_batches.time", SimpleNamespace(monotonic=monotonic))
    for seconds in ({"seconds": 6.0}, {"seconds": 6.0, "steps": 4}, {"seconds": 3.0, "epochs": 3}):
        assert_equal(3, Curve(), train=seconds)
