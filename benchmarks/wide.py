"""A network of three wide layers on random samples, for `ranks_per_silo.py`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.tasks.base import SiloData

SAMPLES, FEATURES, WIDTH, CLASSES = 2048, 784, 1024, 10


class Wide:
    """Classification of what has no classes: it is for time alone."""

    def model(self) -> nn.Module:
        """Three hidden layers."""
        layers = [nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)]
        hidden = [one for layer in layers for one in (layer, nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, CLASSES))

    def data(self, silo: int, silos: int) -> SiloData:
        """Normal values, and a class for each by chance."""
        generator = torch.Generator().manual_seed(silo)
        x = torch.randn(SAMPLES, FEATURES, generator=generator)
        return SiloData(TensorDataset(x, torch.randint(CLASSES, (SAMPLES,), generator=generator)))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy."""
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Nothing but the loss."""
        return {"loss": self.loss(model, batch)}
