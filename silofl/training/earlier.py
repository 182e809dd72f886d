"""Parameters as they are some local steps before a round's last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from silofl.training.flat import FlatModel

Step = Callable[[Any], Tensor]


@final
class Earlier:
    """What local training has made of a part of the parameters after `steps` steps.

    Args:
        model: what is trained.
        part: which of its P parameters.
        steps: after how many, fewer than there are.
        take: is given a copy (k,), once that step was taken.
    """

    def __init__(self, model: FlatModel, part: slice, steps: int, take: Callable[[Tensor], None]) -> None:
        self._model, self._part, self._steps, self._take = model, part, steps, take

    def before(self, step: Step) -> Step:
        """The steps of a training, which copies the parameters before the one that is too late."""
        taken = 0

        def counted(batch: Any) -> Tensor:
            nonlocal taken
            if taken == self._steps:
                self._model.adopt()
                self._take(self._model.parameters[self._part].clone())
            taken += 1
            return step(batch)

        return counted
