"""Statistics of raw columns, and of one silo alone: averaged exactly, and never published without noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.tasks.base import SiloData

SILOS = 3


class Laboratory:
    """Two classes by eight columns, one of which is in the ten thousands."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(100 + silo)
        y = np.arange(40 + 7 * silo) % 2
        x = rng.standard_normal((len(y), 8)) + 1.5 * y[:, None] * np.sign(np.arange(8) % 2 - 0.5)
        samples = torch.tensor(x * ([1] * 7 + [5e4]), dtype=torch.float32)
        data = TensorDataset(samples, torch.tensor(y))
        return SiloData(data, data)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


class Remembering(nn.Module):
    """A mean of samples that a forward pass puts in the place of its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = (0.9 * self.mean + 0.1 * x.mean(0)).detach()
        scores: Tensor = self.out(x - self.mean)
        return scores


def federate(path: Path, task: Any, **sections: Any) -> dict[str, Any]:
    tables = {"train": {"batch_size": 16, "lr": 0.1}} | sections
    tables["run"] = {"dir": str(path), "display": "none"} | tables.get("run", {})
    config = configuration.parse(tables)

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, task(comm.rank), comm=comm)

    summary: dict[str, Any] = run_in_threads(SILOS, rank, timeout_s=60)[0]
    return summary


@pytest.mark.long
def test_a_raw_column_costs_a_secure_sum_no_accuracy(tmp_path: Path) -> None:
    """Where one range served all values of an update, 16 bits ended at 0.66, and 32 at 0.60."""
    ways: tuple[dict[str, Any], ...] = ({"protocol": "plain"}, {"bits": 16}, {"bits": 32})
    accuracy = [
        federate(tmp_path / str(k), lambda _: Laboratory(), run={"rounds": 10}, secure=secure)["accuracy"]
        for k, secure in enumerate(ways)
    ]
    assert accuracy[0] > 0.98
    assert accuracy[1:] == pytest.approx([accuracy[0]] * 2, abs=0.02)


def test_no_silo_s_own_statistics_are_published_where_silos_are_protected(tmp_path: Path) -> None:
    """Before, the first silo's mean was in the model file to the last bit, beside an epsilon of 4.4."""
    models: dict[int, Remembering] = {}

    class Own(Laboratory):
        def __init__(self, silo: int) -> None:
            self._silo = silo

        def model(self) -> nn.Module:
            return models.setdefault(self._silo, Remembering())

        def loss(self, model: Any, batch: Any) -> Tensor:
            found = super().loss(model, batch)
            trained[self._silo] = model.mean.clone()
            return found

    trained: dict[int, Tensor] = {}
    noise = {"unit": "silo", "noise_multiplier": 1.0}
    summary = federate(tmp_path, Own, run={"rounds": 1}, privacy=noise, secure={"bits": 32})
    assert summary["epsilon"] > 0
    published = load_file(tmp_path / "model.safetensors")["mean"]
    assert sorted(trained) == list(range(SILOS))
    for own in trained.values():
        assert float((published - own).abs().min()) > 1e-6
