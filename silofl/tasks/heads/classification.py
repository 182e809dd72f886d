"""One class of several: softmax and cross entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.heads.base import Agreement, Head, Labels, precise, target_names
from silofl.tasks.heads.weights import given_weights, refuse_impossible
from silofl.tasks.readers.labels import class_names
from silofl.tasks.readers.rows import some
from silofl.tasks.target_recipe import TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric


@final
@dataclass(frozen=True)
class ClassificationHead(Head):
    """Outputs are logits (batch, classes), targets class numbers int64 (batch,).

    With weights an example's cross entropy counts as often as its class says; "balanced" is scikit-learn's
    n / (classes * n_class), of all silos' training records.
    """

    kind: ClassVar[str] = "classification"
    of_classes: ClassVar[bool] = True

    @classmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """See `Head`."""
        if len(target_names(data)) != 1:
            raise ConfigError(
                f"data.target = {data.target} has several columns, and task.head = 'classification' learns "
                "the class in one: name one column, or set task.head = 'multilabel' for columns of 0 and 1"
            )
        names = tuple(class_names(task))
        weights = given_weights(task, names)
        return cls(names, TargetRecipe(weights=weights), task.class_weights == "balanced")

    def agreement(self, labels: Labels) -> Agreement:
        """See `Head`: by how many training records each class has."""
        counts = yield np.bincount(labels, minlength=len(self.names)).astype(np.float64)
        refuse_impossible(counts, float(counts.sum()))
        empty = [name for name, count in zip(self.names, counts.tolist(), strict=True) if not count >= 1]
        if empty:
            raise DataError(
                f'task.class_weights = "balanced": no silo has a training record of class {some(empty)}, and '
                "its weight would be infinite: take the class out, or give weights in a table",
                rank=0,
            )
        return TargetRecipe(weights=tuple((counts.sum() / (len(counts) * counts)).tolist()))

    def describe(self) -> str:
        """See `Head`."""
        return f"one of {len(self.names)} classes"

    def absent(self, labels: Labels) -> list[str]:
        """Classes without a sample."""
        counts = np.bincount(labels, minlength=len(self.names))
        names = [name for name, count in zip(self.names, counts, strict=True) if not count]
        return [f"there is no sample of class {some(names)}"] if names else []

    def targets(self, labels: Labels) -> Tensor:
        """See `Head`."""
        import torch

        return torch.from_numpy(labels.astype(np.int64))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Head`."""
        from torch.nn import functional

        logits = precise(outputs)
        found = functional.cross_entropy(logits, targets, reduction="none")
        if not self.recipe.weights:
            return found
        return found * logits.new_tensor(self.recipe.weights)[targets]

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """`accuracy`, and of two classes `auc` of the second."""
        from silofl.tasks.metrics import auc

        right = (outputs.argmax(dim=1) == targets).double().mean()
        if outputs.shape[1] != 2:
            return {"accuracy": right}
        return {"accuracy": right, "auc": auc(precise(outputs).softmax(dim=1)[:, 1], targets)}

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """See `Head`."""
        import torch

        found: NDArray[Any] = torch.from_numpy(outputs).softmax(dim=1).numpy()
        return found

    def decided(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Names of the classes, or their numbers where they have none."""
        many = outputs.shape[1]
        names = np.array(self.names) if len(self.names) == many else np.arange(many)
        return np.asarray(names[outputs.argmax(axis=1)])

    def told(self, outputs: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
        """The class, and the probability of each."""
        each = zip(self.named(outputs.shape[1]), self.probabilities(outputs).T, strict=True)
        return [
            ("prediction", self.decided(outputs)),
            *((f"probability {name}", column) for name, column in each),
        ]
