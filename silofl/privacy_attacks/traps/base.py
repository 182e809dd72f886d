"""What a trap is: weights that somebody who decides the model gives silos, and what their sum then shows.

A trap is one file of this folder: a final frozen dataclass whose fields have defaults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.privacy_attacks.inversion.base import Gradient, Public, Recovered
from silofl.privacy_attacks.inversion.first_layer import outside

Weights = dict[str, torch.Tensor]


class Trap(ABC):
    """Weights that let single examples through the gradient of many."""

    paper: ClassVar[str]
    """Where it is from."""

    @abstractmethod
    def weights(self, public: Public, like: NDArray[np.float64], rng: torch.Generator) -> Weights:
        """The parameters that are set otherwise than in `public.module`, by name, in their own type.

        `like` are examples (k, values of one) of the attacker's own that resemble the silos'. ValueError, of
        one sentence, where the model has no place for them.
        """

    @abstractmethod
    def examples(self, gradient: Gradient, public: Public) -> Recovered:
        """Examples that the gradient shows, as many as there seem to be; `public.module` has the weights."""


def plausible(found: NDArray[np.float64], public: Public, tolerance: float) -> NDArray[np.float64]:
    """Those of recovered examples (m, d) within their bounds, but for `tolerance` in root mean square.

    Where the gradient has noise (`Public.noise`) a true example is outside of them as well: all are kept,
    and their values brought within the bounds.
    """
    if public.noise:
        return np.clip(found, public.low, public.high)
    return found[outside(found, public) <= tolerance]
