"""The federation against independent references, in process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData

SIZES = (5, 17, 40)
FEATURES = 7


def samples(silo: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(silo)
    x = rng.standard_normal((SIZES[silo], FEATURES))
    return x, x @ np.arange(FEATURES) + 0.1 * rng.standard_normal(SIZES[silo]) + silo


class LeastSquares:
    """Linear regression without intercept from zero: nothing about it is random."""

    def model(self) -> nn.Module:
        model = nn.Linear(FEATURES, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = (torch.from_numpy(a) for a in samples(silo))
        return SiloData(TensorDataset(x, y[:, None]))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return 0.5 * (model(x) - y).square().mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Drawn(LeastSquares):
    """From a model that is drawn, slowly enough for another thread to come between."""

    def model(self) -> nn.Module:
        return nn.Sequential(*(nn.Linear(40, 40) for _ in range(20)))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return model(torch.ones(1, 40)).mean()


def test_silos_that_are_threads_draw_one_model() -> None:
    settings = configuration.parse({"run": {"seed": 3}})

    def draw(comm: Communicator) -> bytes:
        comm.barrier()
        return Silo(settings, Drawn(), comm.rank % len(SIZES), len(SIZES), "cpu").initial().tobytes()

    assert len(set(run_in_threads(8, draw) + run_in_threads(1, draw))) == 1


def run(path: Path, n: int, **sections: dict[str, Any]) -> NDArray[np.float64]:
    run_table = {"name": "reference", "dir": str(path), "display": "none", **sections.pop("run", {})}
    sections = {"secure": {"protocol": "plain"}, **sections}
    settings = configuration.parse({"run": run_table, **sections})

    def rank(comm: Communicator) -> dict[str, Any]:
        return train(settings, LeastSquares(), comm=comm)

    run_in_threads(n, rank)
    weight: NDArray[np.float64] = load_file(path / "model.safetensors")["weight"][0]
    return weight


@pytest.mark.covering(0)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fedsgd_is_centralized_gradient_descent(tmp_path: Path, momentum: float) -> None:
    rounds, lr = 25, 0.05
    weight = run(
        tmp_path,
        3,
        run={"rounds": rounds},
        train={"full_batch": True, "dtype": "float64"},
        strategy={"name": "fedsgd", "lr": lr, "momentum": momentum},
    )
    x, y = (np.concatenate(parts) for parts in zip(*map(samples, range(3)), strict=True))
    expected, velocity = np.zeros(FEATURES), np.zeros(FEATURES)
    for _ in range(rounds):
        velocity = momentum * velocity + x.T @ (x @ expected - y) / len(y)
        expected -= lr * velocity
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-12)


def test_fedavg_is_the_weighted_mean_of_local_descents(tmp_path: Path) -> None:
    rounds, steps, lr = 8, 5, 0.03
    weight = run(
        tmp_path,
        3,
        run={"rounds": rounds},
        train={"full_batch": True, "steps": steps, "lr": lr, "dtype": "float64"},
    )
    expected = np.zeros(FEATURES)
    for _ in range(rounds):
        local = [expected.copy() for _ in SIZES]
        for silo in range(len(SIZES)):
            x, y = samples(silo)
            for _ in range(steps):
                local[silo] -= lr * x.T @ (x @ local[silo] - y) / len(y)
        expected = np.average(local, axis=0, weights=SIZES)
    np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-10)


@pytest.mark.covering(0)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_float32_runs_on_any_number_of_silos(tmp_path: Path, n: int) -> None:
    weight = run(tmp_path / "a", n, run={"rounds": 3}, train={"batch_size": 4})
    again = run(tmp_path / "b", n, run={"rounds": 3}, train={"batch_size": 4})
    other = run(tmp_path / "c", n, run={"rounds": 3, "seed": 1}, train={"batch_size": 4})
    np.testing.assert_array_equal(weight, again)
    assert not np.array_equal(weight, other)
    assert weight.dtype == np.float32
    assert np.isfinite(weight).all()


@pytest.mark.long
def test_bfloat16_models_train_on_float32_masters(tmp_path: Path) -> None:
    exact = run(tmp_path / "a", 3, run={"rounds": 40}, train={"full_batch": True, "dtype": "float64"})
    coarse = run(tmp_path / "b", 3, run={"rounds": 40}, train={"full_batch": True, "dtype": "bfloat16"})
    np.testing.assert_allclose(coarse, exact, atol=0.1)


@pytest.mark.long
def test_a_secure_sum_trains_the_same_model_within_its_fixed_point(tmp_path: Path) -> None:
    common = {
        "run": {"rounds": 20},
        "train": {"full_batch": True, "steps": 3, "lr": 0.05, "dtype": "float64"},
    }
    plain = run(tmp_path / "plain", 3, **common)
    fine = run(tmp_path / "fine", 3, **common, secure={"protocol": "secagg", "bits": 32})
    coarse = run(tmp_path / "coarse", 3, **common, secure={"protocol": "secagg", "bits": 16})
    np.testing.assert_allclose(fine, plain, rtol=0, atol=1e-7)
    np.testing.assert_allclose(coarse, plain, rtol=0, atol=1e-2)
    assert not np.array_equal(coarse, plain)
