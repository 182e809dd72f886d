"""Several labels, each there or not: a sigmoid and binary cross entropy each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.heads.base import Agreement, Counted, Head, Labels, precise, target_names
from silofl.tasks.heads.weights import given_weights, refuse_idle_keys, refuse_impossible
from silofl.tasks.readers.rows import some
from silofl.tasks.readers.target_column import CellRule
from silofl.tasks.target_recipe import TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric

MOST = 128
"""Labels: histograms of their scores are one state of a metric."""
ZERO_OR_ONE = CellRule("value(s) that are not 0 or 1", lambda x: (x != 0) & (x != 1) & ~np.isnan(x))


@final
@dataclass(frozen=True)
class MultiLabelHead(Head):
    """Outputs are logits (batch, labels), targets 0 or 1, int64 (batch, labels).

    The loss of an example is the mean over its labels; a label that is there counts as often as its weight
    says (torch's `pos_weight`). "balanced" is how many training records of all silos have not the label, for
    each that has it.
    """

    kind: ClassVar[str] = "multilabel"

    @classmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """See `Head`."""
        refuse_idle_keys(task, cls.kind, ("classes", "labels", "intervals"))
        names = target_names(data)
        if not 2 <= len(names) <= MOST or len(set(names)) < len(names):
            raise ConfigError(
                f"data.target = {data.target} names {len(names)} column(s), and task.head = 'multilabel' "
                f'learns 2 to {MOST} different labels: name the column of each, as target = ["a", "b"]'
            )
        return cls(names, TargetRecipe(weights=given_weights(task, names)), task.class_weights == "balanced")

    def rules(self, place: int) -> Sequence[CellRule]:
        """See `Head`."""
        return (ZERO_OR_ONE,)

    def agreement(self, labels: Labels) -> Agreement:
        """See `Head`: by how many training records have each label."""
        total = yield np.append(labels.sum(axis=0), len(labels))
        refuse_impossible(total[:-1], float(total[-1]))
        there, without = total[:-1], total[-1] - total[:-1]
        empty = [name for name, *two in zip(self.names, there, without, strict=True) if not min(two) >= 1]
        if empty:
            raise DataError(
                f'task.class_weights = "balanced": of label {some(empty)} all training records of all silos '
                "have the same value: take the label out, or give weights in a table",
                rank=0,
            )
        return TargetRecipe(weights=tuple((without / there).tolist()))

    def describe(self) -> str:
        """See `Head`."""
        return f"{len(self.names)} labels, each 0 or 1"

    def absent(self, labels: Labels) -> list[str]:
        """Labels that no sample has."""
        names = [name for name, column in zip(self.names, labels.T, strict=True) if not column.any()]
        return [f"there is no sample with label {some(names)}"] if names else []

    def counted(self, labels: Labels) -> Sequence[Counted]:
        """How many records have each label."""
        columns = zip(self.names, labels.T, strict=True)
        return [Counted(name, ("0", "1"), column.astype(np.intp)) for name, column in columns]

    def targets(self, labels: Labels) -> Tensor:
        """See `Head`."""
        import torch

        return torch.from_numpy(labels.astype(np.int64))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Head`."""
        from torch.nn import functional

        logits = precise(outputs)
        weights = logits.new_tensor(self.recipe.weights) if self.recipe.weights else None
        each = functional.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none", pos_weight=weights
        )
        return each.mean(dim=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """`auc`, the mean over labels, and `auc/<label>`; `f1`, the mean, and `subset_accuracy`."""
        from silofl.tasks.metrics import Ratio, multilabel_auc, multilabel_f1

        predicted, names = outputs > 0, self.named(outputs.shape[1])
        right = (predicted == (targets > 0)).all(dim=1)
        return {
            "auc": multilabel_auc(precise(outputs).sigmoid(), targets, names),
            "f1": multilabel_f1(predicted, targets),
            "subset_accuracy": Ratio(right.sum(), len(right)),
        }

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """See `Head`."""
        import torch

        found: NDArray[Any] = torch.from_numpy(outputs).sigmoid().numpy()
        return found

    def decided(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Whether each label is there: its probability is a half or more."""
        return np.asarray(self.probabilities(outputs) >= 0.5)

    def told(self, outputs: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
        """Each label's 0 or 1, and its probability."""
        names = self.named(outputs.shape[1])
        labels = zip(names, self.decided(outputs).T, strict=True)
        each = zip(names, self.probabilities(outputs).T, strict=True)
        return [
            *((name, column.astype(int)) for name, column in labels),
            *((f"probability {name}", column) for name, column in each),
        ]
