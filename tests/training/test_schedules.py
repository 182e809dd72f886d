"""Rates by the number of a round: what torch's schedulers make of them, and what formulas say."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silofl import config as configuration
from silofl.config import TrainConfig
from silofl.config.inner_tables import Schedule
from silofl.errors import ConfigError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.scaffold import Scaffold
from silofl.training.batches import Batches
from silofl.training.flat import FlatModel
from silofl.training.schedules import RoundSchedule
from silofl.training.trainer import LocalTrainer
from tests.federation.own_scripts import FEATURES, Plain, settings

ROUNDS = 12


def factors(**keys: Any) -> list[float]:
    schedule = RoundSchedule(Schedule(**keys), ROUNDS)
    return [schedule.factor(number) for number in range(1, ROUNDS + 1)]


FORMULAS: dict[str, Callable[[int, int], float]] = {
    "constant": lambda done, rounds: 1.0,
    "cosine": lambda done, rounds: (1 + math.cos(math.pi * done / rounds)) / 2,
    "linear": lambda done, rounds: 1 - done / rounds,
    "step": lambda done, rounds: 0.1 ** (done // (rounds // 3)),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("warm_up", [0, 3])
def test_rates_are_those_of_the_formula(name: str, warm_up: int) -> None:
    rising = [(number + 1) / (warm_up + 1) for number in range(warm_up)]
    then = [FORMULAS[name](done, ROUNDS - warm_up) for done in range(ROUNDS - warm_up)]
    assert factors(name=name, warm_up=warm_up) == pytest.approx([*rising, *then], abs=1e-12)


def test_one_cycle_rises_and_falls() -> None:
    found = factors(name="one-cycle", warm_up=4)
    top = found.index(max(found))
    assert max(found) == pytest.approx(1.0)
    assert top == 3
    assert found == sorted(found[: top + 1]) + sorted(found[top + 1 :], reverse=True)
    assert factors(name="step", options={"step_size": 6, "gamma": 0.5}) == [1.0] * 6 + [0.5] * 6


def test_a_trainer_has_the_rounds_rates_in_all_groups_also_after_a_restore() -> None:
    config = TrainConfig(optimizer="Muon", lr=0.1, keep_optimizer=True, options={"adamw": {"lr": 0.02}})
    task, schedule = Plain(), RoundSchedule(Schedule(name="linear"), 4)

    def trainer() -> tuple[LocalTrainer, Any]:
        module = nn.Sequential(nn.Linear(FEATURES, 4), nn.Linear(4, 4), nn.Linear(4, 3))
        model, cpu = FlatModel(module, torch.float32, torch.device("cpu")), torch.device("cpu")
        batches = Batches(task.data(0, 1).train, torch.float32, cpu)
        made = LocalTrainer(task, model, batches, config, seed=0, silo=0, schedule=schedule)
        return made, made.optimizer.current

    first, optimizer = trainer()
    for number, factor in ((1, 1.0), (3, 0.5)):
        first.fit(number)
        rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
        assert rates == pytest.approx([0.1 * factor, 0.02 * factor])
    again, optimizer = trainer()
    again.load_state(first.optimizer.state(), {})
    again.fit(4)
    rates = [group["lr"] for part in optimizer.parts for group in part.param_groups]
    assert rates == pytest.approx([0.1 * 0.25, 0.02 * 0.25])


def test_strategies_reckon_with_the_rounds_rate(tmp_path: Path) -> None:
    tables: dict[str, Any] = {"strategy": {"name": "scaffold"}, "train": {"lr": 0.2, "schedule": "linear"}}
    config = settings(tmp_path, **tables)
    silo, strategy = Silo(config, Plain(), 0, 2, "cpu"), Scaffold()
    zeros = np.zeros(silo.model.trainable, np.float32)
    start = RoundStart({"model": zeros, "control": zeros}, zeros[:0], 3, strategy)
    assert silo._half.local_round(silo.strategy_state, start).lr == pytest.approx(0.2 * 0.5)


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"train": {"lr_scheduler": "cosine"}}, "did you mean train.schedule?"),
        ({"train": {"patience": 3}}, "did you mean run.stop_when?"),
        ({"train": {"schedule": "cosin"}}, "train.schedule.name = 'cosin' is not allowed"),
        ({"train": {"schedule": {"warmup": 2}}}, "did you mean train.schedule.warm_up"),
        ({"train": {"schedule": {"name": "cosine", "warm_up": 20}}}, "warm_up = 20 takes all of 20 rounds"),
        ({"train": {"schedule": {"name": "cosine", "rounds": 5}}}, "is less than run.rounds = 20"),
        ({"train": {"schedule": {"rounds": 30}}}, "do nothing"),
        ({"train": {"schedule": {"warm_up": 2, "options": {"gamma": 1}}}}, '"constant" has none'),
        (
            {"train": {"schedule": "one-cycle"}, "run": {"rounds": 1}},
            "needs two rounds at least, and there is 1",
        ),
        (
            {"train": {"schedule": "cosine"}, "strategy": {"name": "fedsgd"}},
            'strategy.name = "fedsgd" takes none: remove it, and set strategy.lr',
        ),
        (
            {"train": {"schedule": "cosine"}, "personal": {"name": "ditto"}},
            '"ditto" has steps of its own',
        ),
    ],
    ids=str,
)
def test_schedules_that_cannot_be_are_one_sentence(tables: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration.parse(tables)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_that_torch_refuses_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"over 20 rounds is refused by torch: .*step_sizes"):
        RoundSchedule(Schedule(name="step", options={"step_sizes": 3}), 20)


def test_more_rounds_are_another_schedule_and_less_of_one_that_is_longer_the_same() -> None:
    def tables(**run: Any) -> dict[str, Any]:
        schedule = run.pop("schedule")
        return configuration.resumption_tables(
            configuration.parse({"run": run, "train": {"schedule": schedule}})
        )

    assert tables(rounds=4, schedule="cosine") != tables(rounds=6, schedule="cosine")
    longer = {"name": "cosine", "rounds": 6}
    assert tables(rounds=4, schedule=longer) == tables(rounds=6, schedule=longer)
    assert tables(rounds=4, schedule="constant") == tables(rounds=6, schedule="constant")
