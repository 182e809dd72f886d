"""Under [privacy] nothing leaves a silo that is not clipped and noisy, or made of what is."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from silofl.aggregation import wire_format
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import PrivacyConfig
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.federation.local_work import RoundStart
from silofl.federation.loop import train
from silofl.federation.own_log import own_log_path
from silofl.federation.privacy.clip_norm import ClipNorm
from silofl.federation.privacy.pipeline import Pipeline
from silofl.federation.silo import Silo
from silofl.privacy.plan import Plan
from silofl.strategies.base import LocalRound, State, Strategy
from silofl.training.private import PrivateSteps
from silofl.types import Contribution, Vector
from tests.federation.test_privacy import LOCAL, SILOS, Plain, lines, settings

UNIT = {
    "example": {"unit": "example", "noise_multiplier": 1.0, "sample_rate": 0.2, "place": "local"},
    "silo": {"unit": "silo", "noise_multiplier": 1.0, "sample_rate": 0.1, "place": "local"},
}


@dataclass(frozen=True)
class Telling(Strategy):
    """Proximal as FedProx is, and eager to tell of its data: the loss, as weight, scalar and vector."""

    gradients: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def correct(self, gradient: Any, values: Any, local: LocalRound) -> None:
        self.gradients.append(gradient.clone())
        gradient += 0.1 * (values - local.shared["model"])

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        self.losses.append(loss)
        contribution, state = super().contribute(trained, steps, loss, local)
        vectors = {**contribution.vectors, "secret": trained * 0 + 3}
        return replace(contribution, vectors=vectors, scalars={"loss": loss}, weight=7.0), state


def pipeline(path: Path, unit: str) -> tuple[Pipeline, RoundStart, Telling, Plan]:
    more: dict[str, Any] = LOCAL if unit == "example" else {"strategy": {"name": "fedavg", "momentum": 0.0}}
    config, strategy = settings(path, **more, privacy=UNIT[unit]), Telling()
    silo = Silo(config, Plain(), 0, SILOS, "cpu", strategy)
    plan = Plan(config.privacy, silo.model.size, 32, SILOS, 800, 5, 3 if unit == "example" else 1)
    keys = NoiseKeys(Secret(bytes(32)), bytes(16), 0, run=bytes(16))
    steps = None
    if unit == "example":
        gradients = silo.clipped_gradients(config.privacy)
        steps = PrivateSteps(gradients, silo.model, silo.persons, config.privacy.sample_rate, keys, b"data")
    way = Pipeline(silo, plan, plan.grid(1.0), keys, ClipNorm(config.privacy), ("update",), steps)
    return way, RoundStart({"model": silo.initial()}, np.empty(0, np.float32), 1, strategy), strategy, plan


def units(values: Any, step: float) -> Any:
    """How far values are from whole numbers of steps."""
    wide = np.asarray(values, np.float64) / step
    return np.abs(wide - np.rint(wide)).max()


@pytest.mark.parametrize("unit", UNIT)
def test_a_silo_brings_the_vectors_that_noise_covers_and_nothing_beside_them(
    tmp_path: Path, unit: str
) -> None:
    way, start, _, _ = pipeline(tmp_path, unit)
    brought = way.fit(start, 0).contribution
    assert set(brought.vectors) == {"update"}
    assert brought.scalars == {}
    assert brought.weight == 1.0


def test_a_local_correction_sees_gradients_that_have_their_noise(tmp_path: Path) -> None:
    """And so all that it makes of them is post-processing."""
    way, start, strategy, plan = pipeline(tmp_path, "example")
    way.fit(start, 0)
    grid = plan.grid(1.0)
    assert len(strategy.gradients) == 3
    for gradient in strategy.gradients:
        assert units(gradient.numpy(), grid.step / (0.2 * 200)) < 1e-3
        assert gradient.std() > 0.5 * math.sqrt(grid.share) * grid.step / (0.2 * 200)


def test_a_strategy_is_not_told_the_loss_of_noisy_steps(tmp_path: Path) -> None:
    """Which has no noise; it may know that of an update that is clipped as a whole, whatever is in it."""
    way, start, strategy, _ = pipeline(tmp_path / "example", "example")
    fitted = way.fit(start, 0)
    assert np.isnan(strategy.losses).all()
    assert math.isfinite(fitted.loss)
    way, start, strategy, _ = pipeline(tmp_path / "silo", "silo")
    way.fit(start, 0)
    assert np.isfinite(strategy.losses).all()


def test_an_update_of_a_silo_alone_is_a_whole_number_of_the_grid_s_units(tmp_path: Path) -> None:
    way, start, _, plan = pipeline(tmp_path, "silo")
    assert units(way.fit(start, 0).contribution.vectors["update"], plan.grid(1.0).step) < 1e-2


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("unit", "place"),
    [("silo", "local"), ("silo", "distributed"), ("silo", "central"), ("example", "central")],
)
def test_ranges_are_agreed_of_noisy_values_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str, place: str
) -> None:
    """Largest magnitudes tell of data. Under local noise they are those of what is shown anyway."""
    asked: list[Any] = []
    encode = wire_format.encode_exponents

    def look(magnitudes: Any, dtype: Any) -> Any:
        asked.append(magnitudes.copy())
        return encode(magnitudes, dtype)

    monkeypatch.setattr(wire_format, "encode_exponents", look)
    strategy = {"name": "fedavg", "momentum": 0.0} if unit == "silo" else {}
    sections: dict[str, Any] = {"privacy": UNIT[unit] | {"place": place}, "run": {"rounds": 2}}
    config = settings(tmp_path, **sections, strategy=strategy, secure={"protocol": "secagg"})
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path / "run")})})

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Plain(), comm=comm)

    run_in_threads(SILOS, rank, timeout_s=100)
    if place == "local":
        step = Plan(config.privacy, 63, 32, SILOS, 800, 2, 1).grid(1.0).step
        assert asked
        assert all(units(magnitudes, step) < 1e-2 for magnitudes in asked)
    else:
        assert sum(len(magnitudes) for magnitudes in asked) == 0
        for line in lines(tmp_path):
            assert (line["encoding_error"], line["coarse_tensors"], line["clipped_silos"]) == (0.0, {}, 0)


def test_no_loss_of_training_is_in_a_run_s_files(tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        **LOCAL,
        privacy=UNIT["example"] | {"metrics": "exact"},
        run={"rounds": 1, "share_silo_metrics": True},
    )
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path / "run")})})

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Plain(), comm=comm)

    run_in_threads(SILOS, rank, timeout_s=100)
    for name in ("metrics.jsonl", "summary.json"):
        text = (tmp_path / "run" / name).read_text()
        assert "train_loss" not in text
        assert "NaN" not in text
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text())["per_silo"]


@pytest.mark.covering(0)
@pytest.mark.parametrize("private", [False, True])
def test_what_is_noticed_of_a_silo_s_data_is_told_to_it_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], private: bool
) -> None:
    """Which classes it has not: the launcher's terminal is not the silo's own."""
    for silo in range(SILOS):
        rows = "".join(f"{row + silo},{row % (2 if silo == 1 else 3)}\n" for row in range(40))
        (tmp_path / f"{silo}.csv").write_text("age,label\n" + rows)
    config = settings(
        tmp_path,
        **LOCAL,
        privacy=UNIT["example"],
        task={"name": "files", "classes": 3, "model": "linear"},
        data={"path": str(tmp_path / "{silo}.csv")},
        run={"rounds": 1},
    )
    if not private:
        config = config.model_copy(update={"privacy": PrivacyConfig()})
    ends = run_in_threads(SILOS, lambda comm: train(config, comm=comm), timeout_s=60)
    assert all(isinstance(end, dict) for end in ends)
    told, logs = capfd.readouterr(), [own_log_path(tmp_path / "run", silo) for silo in range(SILOS)]
    kept = "".join(log.read_text() for log in logs if log.exists())
    said = "there is no sample of class '2'"
    assert (said in kept, said in told.out + told.err) == (private, not private)
    assert [log.exists() for log in logs] == [silo == 1 and private for silo in range(SILOS)]
