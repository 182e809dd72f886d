"""The examples themselves, by a division: the gradient of a first fully connected layer is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from silofl.privacy_attacks.inversion.base import Gradient, GradientInversion, Public, Recovered


@final
@dataclass(frozen=True)
class FirstLayer(GradientInversion):
    """Analytic inversion (Phong et al. 2018, section 3; Geiping et al. 2020, proposition 3.1).

    x = dL/dW_i / dL/db_i is exact for each unit i that one example alone activates, so for every active unit
    of a gradient of one example. Of several the quotient is a mixture, and those units are taken whose
    quotient is least outside of what examples can be, of equal ones those of the largest gradient.
    Where the gradient has noise (`Public.noise`), the first is the x that fits all units at once by least
    squares, sum_i dL/db_i dL/dW_i / sum_i (dL/db_i)^2, for each quotient alone has one unit's noise.
    """

    least: float = 1e-6
    """Of the largest gradient of a bias; a unit with less is taken for one that is not active."""
    alike: float = 1e-2
    """Quotients that differ by less, in parts of their length, are one example."""

    paper: ClassVar[str] = "Phong et al. 2018"

    def examples(self, gradient: Gradient, public: Public, rng: torch.Generator) -> Recovered:
        """See `GradientInversion`."""
        found = self.candidates(gradient, public)[: public.examples]
        return Recovered(found.reshape(-1, *public.shape))

    def candidates(self, gradient: Gradient, public: Public) -> NDArray[np.float64]:
        """Different quotients (m, values of an example), the most plausible first."""
        weight, bias = (gradient[name].numpy().astype(np.float64) for name in first_linear(public))
        chosen = list[NDArray[np.float64]]()
        if public.noise:
            chosen.append(np.asarray(bias @ weight / np.maximum(bias @ bias, 1e-300)))
        active = np.flatnonzero(np.abs(bias) > self.least * np.abs(bias).max(initial=0.0))
        quotients = weight[active] / bias[active, None]
        # Rounded, so that rounding of the gradient does not decide between units that tell the same.
        order = np.lexsort((-np.abs(bias[active]), np.round(outside(quotients, public), 6)))
        for one in quotients[order]:
            near = (np.linalg.norm(one - other) < self.alike * np.linalg.norm(other) for other in chosen)
            if not any(near):
                chosen.append(one)
        return np.stack(chosen) if chosen else quotients


def first_linear(public: Public) -> tuple[str, str]:
    """Names of weight and bias of a model's first layer. Raises ValueError where it is no linear one."""
    layers = [(name, one) for name, one in public.module.named_modules() if list(one.parameters(False))]
    name, first = layers[0] if layers else ("", None)
    if not isinstance(first, nn.Linear) or first.bias is None or first.in_features != prod(public.shape):
        raise ValueError("the model's first layer is no linear one with a bias, of all values of an example")
    return f"{name}.weight", f"{name}.bias"


def outside(examples: NDArray[np.float64], public: Public) -> NDArray[np.float64]:
    """How far examples (m, d) are outside of the bounds, each: the root of the mean square (m,)."""
    beyond = np.maximum(examples - public.high, 0) + np.maximum(public.low - examples, 0)
    return np.asarray(np.sqrt(np.mean(beyond**2, axis=1)))
