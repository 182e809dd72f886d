"""Labels turned round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from silofl.attacks.base import LiveAttack
from silofl.constrained import PositiveInt


@final
@dataclass(frozen=True)
class LabelFlip(LiveAttack):
    """Label flipping (Fang et al. 2020, section 4.2): label y of a sample becomes classes - 1 - y."""

    classes: PositiveInt = 10
    """How many classes there are."""

    poisons: ClassVar[bool] = True
    paper = "Fang et al. 2020"

    def poison(
        self, samples: NDArray[np.generic], labels: NDArray[np.generic], rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """See `LiveAttack`. ValueError for labels that are not from 0 to classes - 1."""
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= self.classes:
            raise ValueError(
                f"attack.classes = {self.classes} and labels are no integers from 0 to {self.classes - 1}: "
                "set it to the number of classes of the task"
            )
        return samples, np.asarray(self.classes - 1 - labels, labels.dtype)
