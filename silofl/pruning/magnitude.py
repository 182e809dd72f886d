"""Magnitude pruning: the weights that are nearest to zero go first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from silofl.pruning.base import ScheduledRule, Weights, largest, share
from silofl.types import Mask, Vector


@final
@dataclass(frozen=True)
class Magnitude(ScheduledRule):
    """The weights of largest magnitude are left (Han et al. 2015, "Learning both Weights and Connections").

    They are compared over the whole model or tensor by tensor. Every tensor keeps its largest weight, so that
    no layer is cut in two.
    """

    scope: Literal["global", "tensor"] = "global"
    """Whether `density` is of all weights together, or of each tensor's."""

    paper = "Han et al. 2015"

    def too_few(self, chosen: Sequence[Weights]) -> str | None:
        """See `ScheduledRule`."""
        if self.scope == "tensor":
            least = min(chosen, key=lambda one: one.size)
            if share(self.density, least.size):
                return None
            return (
                f"prune.density = {self.density:g} of the {least.size} weights of {least.name} is none: set "
                f"it to {1 / least.size:.2g} or more, or keep that tensor whole by prune.keep = "
                f'["{least.name}"]'
            )
        total = sum(one.size for one in chosen)
        count = share(self.density, total)
        if count >= len(chosen):
            return None
        return (
            f"prune.density = {self.density:g} of {total} weights leaves {count} in {len(chosen)} tensors, "
            f"each of which needs one at least: set it to {len(chosen) / total:.2g} or more"
        )

    def keep_largest(self, values: Vector, before: Mask, chosen: Sequence[Weights], density: float) -> None:
        """See `ScheduledRule`."""
        groups = [[one] for one in chosen] if self.scope == "tensor" else [list(chosen)]
        for group in groups:
            scores = [_scores(values[one.place], before[one.place]) for one in group]
            count = max(len(group), share(density, sum(one.size for one in group)))
            left = largest(np.concatenate(scores), count)
            ends = np.cumsum([one.size for one in group])[:-1]
            for one, part in zip(group, np.split(left, ends), strict=True):
                before[one.place] &= part


def _scores(values: Vector, before: Mask) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Magnitudes (k,) of a tensor; below zero where a weight is pruned already, infinite for the largest."""
    scores = np.where(before, np.abs(values, dtype=np.float64), -1.0)
    scores[int(np.argmax(scores))] = np.inf
    return scores
