"""FedProx against plain lines, and FedAvg where nothing holds a silo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.fedprox import FedProx
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.strategies import naive
from tests.strategies.loop import LR, STEPS, Loop
from tests.strategies.naive import ALL, SIZE, SOME, silos


@pytest.mark.covering(1)
@pytest.mark.parametrize("present", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("bounds", [(0, SIZE), (0, 2, 2, 5, SIZE)], ids=["whole", "sliced"])
@pytest.mark.parametrize("mu", [0.0, 0.1, 2.0])
def test_fedprox(present: Any, bounds: Any, mu: float) -> None:
    model = Loop(FedProx(mu), silos(), bounds).run(present)
    expected = naive.fedprox(silos(), present, LR, STEPS, mu)
    np.testing.assert_allclose(model, expected, rtol=0, atol=1e-12)
    assert np.array_equal(model, Loop(FedAvg(), silos(), bounds).run(present)) == (mu == 0)


class Network:
    """A small network of single precision with dropout and BatchNorm."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

    def data(self, silo: int, silos: int) -> SiloData:
        rng = np.random.default_rng(silo)
        x = torch.from_numpy(rng.standard_normal((37, 6)).astype(np.float32))
        return SiloData(TensorDataset(x, torch.from_numpy(rng.integers(0, 3, 37))))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize("optimizer", mostly_long(["SGD", "AdamW"], 1))
def test_without_a_weight_it_is_fedavg_bit_for_bit(optimizer: str) -> None:
    def update(strategy: Any, table: dict[str, Any]) -> bytes:
        train = {"optimizer": optimizer, "epochs": 2, "batch_size": 5, "weight_decay": 0.01, "clip_norm": 1.0}
        train |= {"momentum": 0.9} if optimizer == "SGD" else {}
        silo = Silo(configuration.parse({"train": train, "strategy": table}), Network(), 1, 3, "cpu")
        whole, count = silo.initial(), silo.model.trainable
        fitted = silo.fit(RoundStart({"model": whole[:count]}, whole[count:], 3, strategy))
        return b"".join(values.tobytes() for values in fitted.contribution.vectors.values())

    plain = update(FedAvg(), {})
    assert update(FedProx(0.0), {"name": "fedprox", "mu": 0.0}) == plain
    assert update(FedProx(0.1), {"name": "fedprox"}) != plain


@pytest.mark.parametrize("mu", [-1.0, float("inf"), float("nan"), "large"])
def test_weights_that_are_none_are_refused(mu: Any) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.mu = .* is not allowed"):
        configuration.parse({"strategy": {"name": "fedprox", "mu": mu}})
