"""Buffers of a model whose records are protected: constants pass, where they are the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.tasks.base import SiloData

FEATURES, SILOS = 6, 3


class Turned(nn.Module):
    """A table of rotations, as transformers keep one, in real or complex numbers."""

    def __init__(self, table: Tensor, *, learns: bool) -> None:
        super().__init__()
        self.inner, self.learns = nn.Linear(FEATURES, 2), learns
        self.register_buffer("table", table)

    def forward(self, x: Tensor) -> Tensor:
        table = self.get_buffer("table")
        if self.learns and self.training:
            table += 0.01 * x.detach().mean(0)
        out: Tensor = self.inner(x * (table.real if table.is_complex() else table))
        return out


class Rotations:
    """A task with such a model."""

    def __init__(self, silo: int, dtype: torch.dtype, *, differs: bool = False, learns: bool = False) -> None:
        self._table = torch.linspace(0.5, 1.5, FEATURES).to(dtype) + (silo if differs else 0)
        self._learns = learns

    def model(self) -> nn.Module:
        return Turned(self._table.clone(), learns=self._learns)

    def data(self, silo: int, silos: int) -> SiloData:
        generator = torch.Generator().manual_seed(silo)
        x = torch.randn(60, FEATURES, generator=generator)
        data = TensorDataset(x, (x[:, 0] > 0).long())
        return SiloData(data, data)

    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return self.losses(model, batch).mean()

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


def federate(folder: Path, dtype: torch.dtype, place: str, **task: bool) -> Any:
    local = place == "local"
    sections = {
        "run": {"name": "run", "dir": str(folder / "run"), "display": "none", "rounds": 3},
        "strategy": {"name": "fedavg"} if local else {"name": "fedsgd", "lr": 0.5},
        "train": {"steps": 2} if local else {},
        "secure": {"bits": 32},
        "privacy": {
            **{"unit": "example", "place": place, "sample_rate": 0.3},
            **{"noise_multiplier": 1.0, "clip_norm": 1.0},
        },
        "checkpoint": {"key_file": str(folder / "key-{silo}")},
    }

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        config = configuration.parse(sections)
        try:
            return train(config, Rotations(comm.rank, dtype, **task), comm=comm)
        except SiloflError as error:
            return str(error)

    return run_in_threads(SILOS, rank, timeout_s=60)[0]


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("dtype", "place"),
    [(torch.float32, "distributed"), (torch.complex64, "distributed"), (torch.float32, "local")],
)
def test_constants_pass_and_are_published_as_they_were(
    tmp_path: Path, dtype: torch.dtype, place: str
) -> None:
    assert isinstance(federate(tmp_path, dtype, place), dict)
    model = load_file(tmp_path / "run/model.safetensors")
    assert set(model) == {"inner.weight", "inner.bias", "table"}
    assert torch.equal(model["table"], torch.linspace(0.5, 1.5, FEATURES).to(dtype))


def test_other_values_at_one_silo_are_refused_by_name(tmp_path: Path) -> None:
    assert "table of the model has other values here" in federate(
        tmp_path, torch.float32, "distributed", differs=True
    )


@pytest.mark.covering(0)
@pytest.mark.parametrize("place", ["distributed", "local"])
def test_what_training_changes_is_refused_by_name(tmp_path: Path, place: str) -> None:
    said = federate(tmp_path, torch.float32, place, learns=True)
    assert "changed buffer table" in said
    assert "without noise" in said
