"""What tasks with a built-in head have in common: loss and metrics, of one pass through the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from silofl.tasks.base import Metric, SiloData
from silofl.tasks.heads.base import Head, precise


class Headed(ABC):
    """A task whose batch is (features, targets), float32 (batch, ...) and what its head takes."""

    head: Head

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model from features to outputs (batch, outputs of the head)."""

    @abstractmethod
    def data(self, silo: int, silos: int) -> SiloData:
        """The samples of silo `silo` of `silos`, split for training and evaluation."""

    @property
    def kind(self) -> str:
        """See `PredictingTask`."""
        return self.head.kind

    @final
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean of `losses`, computed in float32 at least whatever the type of the model."""
        return self.losses(model, batch).mean()

    @final
    def losses(self, model: nn.Module, batch: Any) -> Tensor:
        """The head's loss of every example, (batch,)."""
        return self.head.losses(_outputs(model, batch), batch[1])

    @final
    def metrics(self, model: nn.Module, batch: Any) -> Mapping[str, Metric]:
        """The head's metrics."""
        return self.head.metrics(precise(_outputs(model, batch)), batch[1])

    @final
    def evaluate(self, model: nn.Module, batch: Any) -> Mapping[str, Metric]:
        """Both in one pass through the model: `loss` and the head's metrics."""
        outputs = _outputs(model, batch)
        metrics = self.head.metrics(precise(outputs), batch[1])
        return {"loss": self.head.losses(outputs, batch[1]).mean(), **metrics}


def _outputs(model: nn.Module, batch: Any) -> Tensor:
    """The model on the features, which take the type of its parameters."""
    outputs: Tensor = model(batch[0].to(next(model.parameters()).dtype))
    return outputs
