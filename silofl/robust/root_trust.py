"""The mean by how much updates agree with that of one silo that is trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from silofl.constrained import NonNegativeInt
from silofl.robust._points import Points
from silofl.robust.base import Beside, Scene, WeighingRule


@final
@dataclass(frozen=True)
class RootTrust(WeighingRule):
    """FLTrust (Cao et al. 2021, section III) with a silo's update in the place of a server's.

    Each other update is brought to the length of the trusted one, and weighed by the cosine with it, where
    that is above 0; where it is so of none, the trusted update counts alone. Any number of other silos may
    send anything, and `f` says how many are expected to. A root data set is the data of the trusted silo,
    whose own update is not in the mean.
    """

    root: NonNegativeInt = 0
    """Number of the silo that is trusted."""

    paper = "Cao et al. 2021"

    def beside(self) -> tuple[Beside, ...]:
        """See `ResilientRule`."""
        return ("zero",)

    def fewest(self, f: int) -> int:
        """See `ResilientRule`."""
        return max(2, f + 1)

    def refusal(self, silos: int) -> str | None:
        """See `ResilientRule`; also where that silo, or its own update, is not there."""
        if self.bucket > 1 or self.mix:
            key = f"robust.bucket = {self.bucket}" if self.bucket > 1 else "robust.mix = true"
            return f'{key} mixes the update that robust.name = "root_trust" trusts with others: remove it'
        if self.root >= silos:
            return f"robust.root = {self.root} and the silos are 0 to {silos - 1}: name one of them"
        return super().refusal(silos)

    def refusal_of_run(self, silos: int, drawn: int) -> str | None:
        """See `ResilientRule`; also where that silo is not in every round."""
        if drawn == silos:
            return self.refusal(silos)
        return (
            f"run.silos_per_round = {drawn} draws rounds without silo {self.root}, which robust.root trusts: "
            "remove it, or choose another robust.name"
        )

    def weigh(self, points: Points, scene: Scene) -> NDArray[np.float64]:
        """Parts of all updates but the trusted one. ValueError where that is not there."""
        if self.root not in scene.silos:
            raise ValueError(
                f"silo {self.root}, which robust.root trusts, has no update of finite values in the sum: "
                "trust another, or start it again"
            )
        zero, root = scene.named["zero"], scene.silos.index(self.root)
        lengths, products = points.to(zero), points.products(zero)[root]
        tiny = np.finfo(np.float64).tiny
        trust = np.maximum(products / np.maximum(lengths * lengths[root], tiny), 0.0)
        trust[root] = 0.0
        if not trust.any():
            return np.asarray(points.combinations[root])
        parts = trust / trust.sum() * lengths[root] / np.maximum(lengths, tiny)
        return np.asarray(zero + parts @ (points.combinations - zero))
