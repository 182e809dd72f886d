"""What all built-in tasks have in common: cross entropy and accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from silofl.tasks.base import SiloData


class Classification(ABC):
    """A task whose batch is (features, labels): float32 (batch, ...) and int64 (batch,)."""

    kind = "classification"
    """See `PredictingTask`."""

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model from features to logits (batch, classes)."""

    @abstractmethod
    def data(self, silo: int, silos: int) -> SiloData:
        """The samples of silo `silo` of `silos`, split for training and evaluation."""

    @final
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean cross entropy, computed in float32 at least whatever the type of the model."""
        return _cross_entropy(_logits(model, batch), batch[1])

    @final
    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross entropy of every example, (batch,), of which `loss` is the mean."""
        return _cross_entropy(_logits(model, batch), batch[1], reduction="none")

    @final
    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        """`accuracy`: the part of the batch whose largest logit is the label's, a float32 scalar."""
        return {"accuracy": _accuracy(_logits(model, batch), batch[1])}

    @final
    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Tensor | float]:
        """Both in one pass through the model: `loss` and `accuracy`."""
        logits, labels = _logits(model, batch), batch[1]
        return {"loss": _cross_entropy(logits, labels), "accuracy": _accuracy(logits, labels)}


def _logits(model: nn.Module, batch: Any) -> Tensor:
    """The model on the features, which take the type of its parameters."""
    logits: Tensor = model(batch[0].to(next(model.parameters()).dtype))
    return logits


def _cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(precise, labels, reduction=reduction)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).float().mean()
