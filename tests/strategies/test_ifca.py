"""IFCA against its paper in a few lines: models of silos of two kinds, in whole federations of threads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import ConfigError, DataError
from silofl.federation.local_work import RoundStart
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.strategies.ifca import IFCA
from tests.campaigns import mostly_long
from tests.federation.rejoining import federate as federate_with_a_return
from tests.personal.test_private_heads import Spy
from tests.strategies import naive, test_federated, two_tasks
from tests.strategies.naive import SIZE, Array
from tests.strategies.test_federated import FAULT, LR, STEPS, deaths
from tests.strategies.two_tasks import SIZES, TwoTasks

ROUNDS = 10
ALL = naive.ALL[:ROUNDS]
WITHOUT_2 = test_federated.WITHOUT_2[:ROUNDS]
Found = tuple[list[Array], list[Array]]
"""The shared models, and of every silo that is left its own."""


def settings(
    path: Path, clusters: int = 2, *inject: str, rounds: int = ROUNDS, seed: int = 0, **tables: Any
) -> Config:
    shown = {"name": "f", "dir": str(path), "display": "none"}
    return configuration.parse(
        {
            "run": shown | {"rounds": rounds, "seed": seed},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "strategy": {"name": "ifca", "clusters": clusters},
            "failure": {"policy": "shrink", "inject": list(inject)},
            **tables,
        }
    )


def federate(config: Config, task: Any = TwoTasks, *, resume: bool = False) -> list[Any]:
    """Every silo's summary; None of one that was killed."""

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, task(), comm=comm, resume=resume)

    return run_in_threads(len(SIZES), rank, timeout_s=60)


def weight(path: Path) -> Array:
    found: Array = load_file(path)["weight"].ravel()
    return found


def found_in(path: Path, clusters: int = 2, silos: Any = ALL[0]) -> Found:
    names = ["model", *(f"model-{k}" for k in range(2, clusters + 1))]
    own = [weight(path / f"silo-{silo:04d}" / "personal.safetensors") for silo in silos]
    return [weight(path / f"{name}.safetensors") for name in names], own


def reference(clusters: int, present: Any = ALL) -> Found:
    return naive.ifca(two_tasks.silos(), present, LR, STEPS, two_tasks.starts(0, clusters))


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"name": "ifca", "clusters": 2}, partial(reference, 2)),
    ({"name": "ifca", "clusters": 3}, partial(reference, 3)),
]


def compare(found: Found, expected: Found, bound: float) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(mine), np.array(theirs), rtol=0, atol=bound)


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("clusters", "secure", "bound"),
    mostly_long(
        [
            (2, {"protocol": "plain"}, 1e-9),
            (3, {"protocol": "plain"}, 1e-9),
            (2, {"protocol": "secagg", "bits": 32}, 1e-5),
            (3, {"protocol": "secagg", "bits": 32}, 1e-5),
            (2, {"protocol": "secagg", "bits": 16}, 2e-2),
        ],
        1,
        2,
    ),
)
def test_models_are_as_in_the_paper(tmp_path: Path, clusters: int, secure: Any, bound: float) -> None:
    """With three, no silo ends with one of them."""
    summaries = federate(settings(tmp_path, clusters, secure=secure))
    expected = reference(clusters)
    assert len({one.tobytes() for one in expected[1]}) >= 2
    compare(found_in(tmp_path, clusters), expected, bound)
    assert len(summaries[0]["models_sha256"]) == clusters


@pytest.mark.long
def test_it_finds_silos_of_two_kinds_and_is_far_ahead_of_one_model(tmp_path: Path) -> None:
    clustered = federate(settings(tmp_path / "ifca"))[0]
    averaged = federate(settings(tmp_path / "fedavg", strategy={"name": "fedavg"}))[0]
    models, own = found_in(tmp_path / "ifca")
    which = [[np.array_equal(mine, one) for one in models].index(True) for mine in own]
    assert which in ([0, 1, 0, 1], [1, 0, 1, 0])
    assert clustered["accuracy"] > averaged["accuracy"] + 0.3
    rows = two_tasks.held_out()
    by_hand = [np.mean(naive.probabilities(rows[k], own[k]).argmax(1) == rows[k][1]) for k in range(4)]
    assert clustered["accuracy"] == pytest.approx(np.mean(by_hand))  # of each silo's own cluster
    assert clustered["accuracy_per_silo"] == pytest.approx(by_hand)
    assert clustered["personal"].startswith("IFCA")


def test_no_message_has_what_a_silo_has_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sends changes of both models, of which one is zeros; two silos take each."""
    fit, changes, spy = Silo.fit, list[dict[str, Array]](), Spy(monkeypatch)

    def fitted(one: Silo, start: RoundStart) -> Any:
        done = fit(one, start)
        changes.append({name: np.array(values) for name, values in done.contribution.vectors.items()})
        return done

    monkeypatch.setattr(Silo, "fit", fitted)
    federate(settings(tmp_path, rounds=2, secure={"protocol": "secagg", "bits": 32}))
    assert len(changes) == 8
    assert all([values.any() for values in one.values()].count(True) == 1 for one in changes)
    assert spy.found([values for one in changes for values in one.values() if values.any()]) == 0
    models, _ = found_in(tmp_path)
    assert spy.found(models) >= 2 * SIZE  # so that it does find


def test_a_model_that_no_silo_takes_stays_to_the_bit(tmp_path: Path) -> None:
    seed = 2
    federate(settings(tmp_path, 3, rounds=3, seed=seed, secure={"protocol": "secagg", "bits": 16}))
    begun = two_tasks.starts(seed, 3)
    models, _ = naive.ifca(two_tasks.silos(), ALL[:3], LR, STEPS, begun)
    untaken = [k for k in range(3) if np.array_equal(models[k], begun[k])]
    assert untaken == [1]
    found, _ = found_in(tmp_path, 3)
    assert [np.array_equal(one, start) for one, start in zip(found, begun, strict=True)] == [
        k in untaken for k in range(3)
    ]


@pytest.mark.long
@pytest.mark.usefixtures(deaths.__name__)
@pytest.mark.parametrize(
    ("secure", "bound"),
    mostly_long([({"protocol": "plain"}, 1e-9), ({"protocol": "secagg", "bits": 32}, 1e-5)], 1),
)
def test_a_silo_dies(tmp_path: Path, secure: Any, bound: float) -> None:
    summaries = federate(settings(tmp_path, 2, FAULT, secure=secure))
    assert summaries[2] is None
    models, own = reference(2, WITHOUT_2)
    left = [0, 1, 3]
    compare(found_in(tmp_path, 2, left), (models, [own[k] for k in left]), bound)


@pytest.mark.long
@pytest.mark.usefixtures(deaths.__name__)
def test_a_silo_is_away_for_two_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps nothing of its own: it is given all models, and takes one."""
    fails, back, victim = 5, 7, 2
    failure = {"policy": "respawn", "inject": [f"kill silo {victim} round {fails} at train"]}
    config = settings(tmp_path, failure=failure, secure={"protocol": "plain"})
    federate_with_a_return(monkeypatch, config, TwoTasks, len(SIZES), victim, after=back - 1)
    present = [
        tuple(k for k in range(len(SIZES)) if k != victim or not fails <= number < back)
        for number in range(1, ROUNDS + 1)
    ]
    compare(found_in(tmp_path), reference(2, present), 1e-9)


@pytest.mark.long
def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    federate(settings(whole, rounds=4))
    federate(settings(parts, rounds=2))
    federate(settings(parts, rounds=4), resume=True)
    for one, other in zip(found_in(whole), found_in(parts), strict=True):
        assert np.array_equal(np.array(one), np.array(other))


def test_noise_of_starts_is_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = IFCA(start_noise=0.1).start(np.zeros(100_000, np.float32), rng)
    assert noise.dtype == np.float32
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert IFCA().start(noise, rng) is noise


class Zeros(TwoTasks):
    """One whose model is always drawn alike."""

    def model(self) -> nn.Module:
        one = super().model()
        nn.init.zeros_(one.weight)  # type: ignore[arg-type]
        return one


class OneObject(TwoTasks):
    """One that makes its model once."""

    made = two_tasks.Drawn()

    def model(self) -> nn.Module:
        return self.made


class OfAnySize(TwoTasks):
    """One whose model is larger under some seeds."""

    def model(self) -> nn.Module:
        first = two_tasks.Drawn()
        wide = 2 + int(abs(float(first.weight.detach().sum())) * 1000) % 7
        return nn.Sequential(first, nn.Linear(naive.CLASSES, wide))


class Normalized(TwoTasks):
    """One with running statistics."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(naive.INPUTS), two_tasks.Drawn())


def silo(task: Any, silos: int = 4, **tables: Any) -> Silo:
    return Silo(configuration.parse({"strategy": {"name": "ifca"}, **tables}), task, 1, silos, "cpu")


@pytest.mark.parametrize("task", [Zeros, OneObject])
def test_models_that_begin_alike_are_refused_and_noise_mends_it(task: Any) -> None:
    with pytest.raises(ConfigError, match=r"silo 1: .* start unlike, .* set strategy.start_noise, such as"):
        silo(task())
    starts = silo(task(), strategy={"name": "ifca", "clusters": 3, "start_noise": 0.1}).starts
    assert sorted(starts) == ["model-2", "model-3"]
    assert not np.array_equal(starts["model-2"], starts["model-3"])
    assert starts["model-2"].shape == (SIZE,)


def test_a_model_of_another_shape_under_another_seed_is_refused() -> None:
    with pytest.raises(DataError, match=r"silo 1: the task's model\(\) has other tensors under another seed"):
        silo(OfAnySize())


def test_what_totals_reveal_is_said_before_the_first_round() -> None:
    (notice,) = silo(TwoTasks()).notices()
    assert "becomes what that silo trained" in notice
    assert silo(TwoTasks(), strategy={"name": "fedavg"}).notices() == []


def test_more_models_than_silos_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 5 models, .* 4 silos takes one: set strategy.clusters to 4"):
        silo(TwoTasks(), strategy={"name": "ifca", "clusters": 5})
    with pytest.raises(ConfigError, match=r'of 1 silos takes one: set strategy.name = "fedavg"'):
        silo(TwoTasks(), silos=1)


@pytest.mark.long
def test_averaged_buffers_are_refused_and_each_silos_own_are_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'buffers such as 0.running_mean .*norm = "recomputed"'):
        silo(Normalized())
    keys = {"batch_size": 16, "lr": 0.1, "batch_norm": "recomputed"}
    summary = federate(settings(tmp_path, rounds=6, train=keys), Normalized)[0]
    assert summary["accuracy"] > 0.7
    own = [load_file(tmp_path / f"silo-{k:04d}" / "personal.safetensors") for k in range(4)]
    assert len({one["0.running_mean"].tobytes() for one in own}) == 4
    shared = load_file(tmp_path / "model-2.safetensors")
    assert "0.running_mean" not in shared
    assert "1.weight" in shared


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"strategy": {"name": "ifca", "clusters": 1}}, "strategy.clusters = 1 is not allowed"),
        ({"strategy": {"name": "ifca", "start_noise": -1.0}}, "strategy.start_noise = -1.0 is not allowed"),
        (
            {"personal": {"name": "ditto"}},
            'strategy.name = "ifca" gives each silo one of several .* personal.name = "ditto" one of its own',
        ),
        *(
            (
                {"privacy": {"unit": unit, "noise_multiplier": 1.0, "place": place}},
                f'strategy.name = "ifca" .* which privacy.unit = "{unit}" does not cover: set strategy.name',
            )
            for unit in ("silo", "example", "patient")
            for place in ("local", "distributed", "central")
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused_when_the_configuration_is_read(
    tables: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        configuration.parse({"strategy": {"name": "ifca"}, **tables})


class FarOff(TwoTasks):
    """Losses of the second model, and of it alone, are not finite."""

    def loss(self, model: nn.Module, batch: Any) -> Any:
        value = super().loss(model, batch)
        first = two_tasks.starts(0, 1)[0]
        weight = model.weight.detach().double().numpy().ravel()  # type: ignore[union-attr,operator]
        return value if np.abs(weight - first).max() < 1e-3 else value * float("inf")


def test_a_model_without_a_finite_loss_is_not_taken() -> None:
    one = silo(FarOff(), train={"lr": 1e-9})
    begun = one.initial()
    start = RoundStart({"model": one.starts["model-2"], "model-2": begun}, begun[SIZE:], 1, IFCA())
    assert np.array_equal(one.model_of(start), begun)
