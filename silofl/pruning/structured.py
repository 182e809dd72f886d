"""Structured pruning: whole rows of matrices, which are a unit's weights, and whole filters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from silofl.pruning.base import ScheduledRule, Weights, largest, share
from silofl.types import Mask, Vector


@final
@dataclass(frozen=True)
class Structured(ScheduledRule):
    """Of each tensor the rows, or filters, of largest L1 norm are left (Li et al. 2017, "Pruning Filters").

    The last tensor in the model's order, whose rows are the outputs, is left whole. A pruned row's bias and
    what the next layer reads of it stay as they are.
    """

    paper = "Li et al. 2017"

    def prunable(self, weights: Sequence[Weights]) -> list[Weights]:
        """See `ScheduledRule`; without the last matrix of all, whether it is kept by name or not."""
        matrices = [one for one in weights if len(one.shape) > 1 and one.size]
        return [one for one in super().prunable(weights) if one is not matrices[-1]]

    def too_few(self, chosen: Sequence[Weights]) -> str | None:
        """See `ScheduledRule`."""
        least = min(chosen, key=lambda one: one.shape[0])
        rows = least.shape[0]
        if share(self.density, rows):
            return None
        return (
            f"prune.density = {self.density:g} of the {rows} rows of {least.name} is none: set it to "
            f'{1 / rows:.2g} or more, or keep that tensor whole by prune.keep = ["{least.name}"]'
        )

    def keep_largest(self, values: Vector, before: Mask, chosen: Sequence[Weights], density: float) -> None:
        """See `ScheduledRule`. Norms are added up in order, so that every processor has the same bits."""
        for one in chosen:
            matrix = np.abs(values[one.place], dtype=np.float64).reshape(one.shape[0], -1)
            norms = np.add.accumulate(matrix, axis=1)[:, -1]
            mask = before[one.place].reshape(matrix.shape)
            left = largest(np.where(mask[:, 0], norms, -1.0), max(1, share(density, one.shape[0])))
            mask &= left[:, None]
