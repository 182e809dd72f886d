"""Units of the first layer that few examples activate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.privacy_attacks.inversion.base import Gradient, Public, Recovered
from silofl.privacy_attacks.inversion.first_layer import FirstLayer, first_linear
from silofl.privacy_attacks.traps.base import Trap, Weights, plausible


@final
@dataclass(frozen=True)
class SeldomActive(Trap):
    """Trap weights (Boenisch et al. 2023, algorithm 1): negative weights that outweigh positive ones.

    Half of a unit's weights are below zero; the others are the same values, positive and smaller by a factor,
    the largest with which units are active for a part `active` of examples that are like the silos'.
    """

    active: float = 0.02
    """Part of the examples that activate a unit."""
    tolerance: float = 0.02
    """How far a recovered example may be outside of its bounds, in root mean square."""

    paper: ClassVar[str] = "Boenisch et al. 2023"

    def weights(self, public: Public, like: NDArray[np.float64], rng: torch.Generator) -> Weights:
        """See `Trap`."""
        weight, bias = (public.module.get_parameter(name) for name in first_linear(public))
        units, values = weight.shape
        sizes = torch.randn((units, values // 2), generator=rng, dtype=torch.float64).abs().numpy()
        order = torch.rand((units, values), generator=rng).argsort(dim=1).numpy()
        below, above = np.zeros((2, units, values))
        np.put_along_axis(below, order[:, : values // 2], sizes, axis=1)
        np.put_along_axis(above, order[:, values // 2 : values // 2 * 2], sizes, axis=1)
        against, along = like @ below.T, like @ above.T
        # Active where factor * along > against.
        factor = np.quantile(against / np.maximum(along, 1e-12), self.active)
        trap = torch.from_numpy((factor * above - below) / np.sqrt(values))
        name, other = first_linear(public)
        return {name: trap.to(weight.dtype), other: torch.zeros_like(bias)}

    def examples(self, gradient: Gradient, public: Public) -> Recovered:
        """See `Trap`."""
        found = plausible(FirstLayer().candidates(gradient, public), public, self.tolerance)
        return Recovered(found.reshape(-1, *public.shape))
