"""A number: squared error, learnt in standard units and predicted in the target's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError, DataError
from silofl.tasks.heads.base import Agreement, Floats, Head, Labels, precise, target_names
from silofl.tasks.heads.weights import refuse_idle_keys
from silofl.tasks.preprocessing import LARGEST
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.scaling import first_sums, mean_of, pooled_scaling, second_sums
from silofl.tasks.target_recipe import TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric


@final
@dataclass(frozen=True)
class RegressionHead(Head):
    """Outputs and targets are (batch, 1), in units of `recipe.scale` from `recipe.center`."""

    kind: ClassVar[str] = "regression"

    @classmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """See `Head`."""
        refuse_idle_keys(task, cls.kind, ("classes", "labels", "class_weights", "intervals"))
        names = target_names(data)
        if len(names) != 1:
            raise ConfigError(
                f"data.target = {data.target} names {len(names)} columns, and task.head = 'regression' "
                "learns one number: name one"
            )
        center, scale = (
            {tidy(name): one for name, one in each.items()} for each in (data.center, data.scale)
        )
        constants = names[0] in center or names[0] in scale
        recipe = TargetRecipe(float(center.get(names[0], 0.0)), float(scale.get(names[0], 1.0)))
        return cls(names, recipe, bool(data.standardize) and not data.bounds and not constants)

    def agreement(self, labels: Labels) -> Agreement:
        """See `Head`: mean and deviation, as of columns of features."""
        first = yield first_sums(labels)
        mean = mean_of(first)
        second = yield second_sums(labels, mean)
        found = pooled_scaling(self.names, first, second)
        return TargetRecipe(found.center[0], found.scale[0])

    def describe(self) -> str:
        """See `Head`."""
        if self.agrees:
            return "a number, standardized over all silos"
        center, scale = self.recipe.center, self.recipe.scale
        return "a number" if (center, scale) == (0, 1) else f"a number, (value - {center:g}) / {scale:g}"

    def absent(self, labels: Labels) -> list[str]:
        """That all numbers are one."""
        return ["the target has one value in all records"] if len(np.unique(labels)) == 1 else []

    def numbers(self, labels: Labels) -> Mapping[str, Floats]:
        """The target."""
        return {self.names[0]: labels[:, 0]}

    def targets(self, labels: Labels) -> Tensor:
        """See `Head`: float32 (n, 1). DataError where that has no room for them."""
        import torch

        with np.errstate(over="ignore"):
            scaled = (labels - self.recipe.center) / self.recipe.scale
        large = int((~(np.abs(scaled) <= LARGEST)).sum())
        if large:
            raise DataError(
                f"column {self.names[0]!r}, the target, has {large} value(s) too large for float32 once "
                "scaled: correct data.center and data.scale, or the values"
            )
        return torch.from_numpy(scaled.astype(np.float32))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared differences in units of the scale."""
        found = precise(outputs)
        return (found - targets.to(found.dtype)).square().mean(dim=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """`mae` and `rmse` in the target's units, and `r2`."""
        from silofl.tasks.metrics import mean_absolute_error, r2, root_mean_squared_error

        found, y = precise(outputs).double(), targets.double()
        own, true = found * self.recipe.scale, y * self.recipe.scale
        return {
            "mae": mean_absolute_error(own, true),
            "rmse": root_mean_squared_error(own, true),
            "r2": r2(found, y),
        }

    def in_units(self, outputs: Tensor) -> Tensor:
        """Float64, in the target's units."""
        return outputs.double() * self.recipe.scale + self.recipe.center

    def decided(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """The number, (samples,)."""
        return outputs[:, 0] if outputs.ndim == 2 else outputs
