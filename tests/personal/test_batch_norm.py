"""FedBN on a model with batch normalization, and methods whose own passes move its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from tests.campaigns import mostly_long

NORM = ("1.weight", "1.bias", "1.running_mean", "1.running_var")


class Shifted(Classification):
    """Two kinds of points, which each silo measures on another scale."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))

    def data(self, silo: int, silos: int) -> SiloData:
        rng = torch.Generator().manual_seed(silo)
        y = torch.arange(60) % 2
        x = torch.randn(60, 3, generator=rng) + 2.0 * y[:, None]
        x = x * (1 + 5 * silo) + 20 * silo
        return SiloData(TensorDataset(x[:40], y[:40]), TensorDataset(x[40:], y[40:]))


def run(
    path: Path, personal: dict[str, Any], *, rounds_between: int = 1, **train_keys: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    shown = {"name": "b", "dir": str(path), "display": "none", "evaluate_every": rounds_between}
    config = configuration.parse(
        {
            "run": shown | {"rounds": 6},
            "train": {"batch_size": 10, "epochs": 2, "lr": 0.05, **train_keys},
            "personal": personal,
        }
    )

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Shifted(), comm=comm)

    summary = run_in_threads(4, rank, timeout_s=60)[0]
    return load_file(path / "model.safetensors"), summary


def own_models(path: Path) -> list[dict[str, Any]]:
    return [load_file(path / f"silo-000{silo}" / "personal.safetensors") for silo in range(4)]


def test_fedbn_keeps_normalization_and_its_statistics(tmp_path: Path) -> None:
    _, averaged = run(tmp_path / "averaged", {"name": "none"})
    shared, summary = run(tmp_path / "own", {"name": "fedbn"})
    assert not set(NORM) & set(shared)
    owned = own_models(tmp_path / "own")
    for name in NORM:
        assert len({one[name].tobytes() for one in owned}) == 4
    for name in ("0.weight", "3.bias"):
        assert all(np.array_equal(one[name], shared[name]) for one in owned)
    assert summary["accuracy"] > averaged["accuracy"] + 0.02  # features of unlike scales: the paper's case


@pytest.mark.long
@pytest.mark.parametrize(
    "name", mostly_long(["finetune", "fedbn", "ditto", "apfl", "mrmtl", "pfedme", "perfedavg"], 1)
)
def test_each_own_model_is_loaded_by_itself(tmp_path: Path, name: str) -> None:
    run(tmp_path, {"name": name})
    task = Shifted()
    for silo, arrays in enumerate(own_models(tmp_path)):
        model = task.model()
        model.load_state_dict({key: torch.from_numpy(value) for key, value in arrays.items()}, strict=True)
        model.eval()
        test = task.data(silo, 4).test
        assert test is not None
        x, y = test.tensors  # type: ignore[attr-defined]
        with torch.no_grad():
            assert (model(x).argmax(1) == y).float().mean() >= 0.5


@pytest.mark.long
@pytest.mark.parametrize("name", mostly_long(["finetune", "ditto"], 1))
def test_what_is_done_beside_leaves_the_shared_model_as_it_is(tmp_path: Path, name: str) -> None:
    """Buffers and counters of batch normalization, and optimizers with a memory, too."""
    keys: dict[str, Any] = {"momentum": 0.9, "keep_optimizer": True}
    plain, _ = run(tmp_path / "plain", {"name": "none"}, **keys)
    beside, summary = run(tmp_path / "beside", {"name": name}, **keys)
    assert sorted(plain) == sorted(beside)
    assert all(np.array_equal(plain[key], beside[key]) for key in plain)
    assert "personal/accuracy" in summary["metrics"]


@pytest.mark.long
@pytest.mark.parametrize("choice", mostly_long(["local", "recomputed"], 0))
def test_statistics_that_stay_with_a_silo(tmp_path: Path, choice: str) -> None:
    """Parameters are shared; a silo's own statistics suit features of its own scale."""
    _, averaged = run(tmp_path / "averaged", {"name": "none"})
    shared, summary = run(tmp_path / "own", {"name": "none"}, batch_norm=choice)
    assert not {"1.running_mean", "1.running_var"} & set(shared)
    assert summary["personal"] == f"statistics of batch normalization, {choice}"
    assert summary["accuracy"] > averaged["accuracy"] + 0.02
    task = Shifted()
    for silo, own in enumerate(own_models(tmp_path / "own")):
        assert all(np.array_equal(own[name], shared[name]) for name in shared if "num_batches" not in name)
        if choice == "recomputed":  # by hand: the mean over batches of ten in order
            train = task.data(silo, 4).train.tensors[0]  # type: ignore[attr-defined]
            hidden = train @ torch.from_numpy(shared["0.weight"]).T + torch.from_numpy(shared["0.bias"])
            parts = torch.split(hidden, 10)
            means = torch.stack([part.mean(0) for part in parts]).mean(0)
            spread = torch.stack([part.var(0) for part in parts]).mean(0)
            np.testing.assert_allclose(own["1.running_mean"], means, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(own["1.running_var"], spread, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_statistics_found_anew_do_not_depend_on_how_often_a_run_evaluates(tmp_path: Path) -> None:
    config = {"name": "none"}
    once, _ = run(tmp_path / "once", config, rounds_between=6, batch_norm="recomputed")
    often, _ = run(tmp_path / "often", config, batch_norm="recomputed")
    assert all(np.array_equal(once[name], often[name]) for name in once)
