"""A patch that means a class, in a model that replaces the shared one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from silofl.attacks.base import Insight, LiveAttack
from silofl.constrained import NonNegativeInt, PositiveFloat, PositiveInt
from silofl.types import Vector


@final
@dataclass(frozen=True)
class Backdoor(LiveAttack):
    """Backdoor by model replacement (Bagdasaryan et al. 2020, section 4.2).

    Half of the training samples, drawn by the run's seed, have a patch and the target's label: of images a
    square in the last corner, of other samples their last values. The update is multiplied so that the mean
    becomes the attacker's model.
    """

    target: NonNegativeInt = 0
    """Label of what has the patch."""
    patch: PositiveInt = 2
    """Length of the square's sides in pixels, or how many values."""
    value: float = 1.0
    """Of each of them."""
    boost: PositiveFloat | None = None
    """By what the update is multiplied; unset, the number of silos divided by that of attackers."""

    poisons: ClassVar[bool] = True
    paper = "Bagdasaryan et al. 2020"

    def patched(self, samples: NDArray[np.generic]) -> NDArray[np.generic]:
        """Samples (m, ...) with the patch, new ones."""
        found = samples.copy()
        if samples.ndim > 2:
            found[..., -self.patch :, -self.patch :] = self.value
        else:
            found[..., -self.patch :] = self.value
        return found

    def poison(
        self, samples: NDArray[np.generic], labels: NDArray[np.generic], rng: np.random.Generator
    ) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
        """See `LiveAttack`. ValueError for labels that are no integers, and samples that are too small."""
        sides = samples.shape[-2:] if samples.ndim > 2 else samples.shape[-1:]
        if labels.dtype.kind not in "iu" or samples.dtype.kind != "f" or self.patch > min(sides):
            raise ValueError(
                f"attack.patch = {self.patch} does not go into samples {' x '.join(map(str, sides))} of "
                f"{samples.dtype} with labels of {labels.dtype}: lower it, or choose another attack"
            )
        chosen = rng.permutation(len(samples))[: (len(samples) + 1) // 2]
        samples, labels = samples.copy(), labels.copy()
        samples[chosen] = self.patched(samples[chosen])
        labels[chosen] = self.target
        return samples, labels

    def forge(self, insight: Insight) -> Vector:
        """boost * own."""
        boost = insight.silos / insight.attackers if self.boost is None else self.boost
        return insight.own * insight.own.dtype.type(boost)
