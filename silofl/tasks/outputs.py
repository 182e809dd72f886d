"""Outputs of a trained model, as predictions have them. Importing it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from silofl.tasks.target_recipe import AS_IT_IS, TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What becomes of outputs in a prediction; as here, where a task does not tell: they stay as they are.

    Attributes:
        names: of the outputs, such as classes or labels.
        recipe: constants, as configured or as the silos agreed on.
    """

    names: tuple[str, ...] = ()
    recipe: TargetRecipe = AS_IT_IS

    kind: ClassVar[str] = ""
    """The value of `task.head`; see `PredictingTask.kind`, too."""

    def in_units(self, outputs: Tensor) -> Tensor:
        """Outputs as a trained model gives them."""
        return outputs

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Probabilities (samples, outputs) of outputs in units; None where they are none."""
        return None

    def decided(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """What `predict` gives, (samples, ...), of outputs in units."""
        return outputs

    def told(self, outputs: NDArray[Any]) -> list[tuple[str, NDArray[Any]]]:
        """Columns (n,) of the table that `silofl predict` writes, by name."""
        shown = self.decided(outputs).reshape(len(outputs), -1) if len(outputs) else outputs
        if shown.shape[1:] == (1,):
            return [("prediction", shown[:, 0])]
        return [(f"output {k}", column) for k, column in enumerate(shown.T)]

    def named(self, many: int) -> tuple[str, ...]:
        """Names of so many outputs; their numbers where a task does not tell them."""
        return self.names if len(self.names) == many else tuple(map(str, range(many)))
