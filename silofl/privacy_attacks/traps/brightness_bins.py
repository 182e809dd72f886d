"""Units that are active from one brightness on, each from a higher one: a bin of few examples between two."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from silofl.privacy_attacks.inversion.base import Gradient, Public, Recovered
from silofl.privacy_attacks.inversion.first_layer import first_linear
from silofl.privacy_attacks.traps.base import Trap, Weights, plausible


@final
@dataclass(frozen=True)
class BrightnessBins(Trap):
    """Robbing the Fed (Fowl et al. 2022, section 3): a first layer that measures an example's mean.

    Unit i is active where the mean of an example's values is above quantile i of the examples that are like
    the silos', and all units go into the next layer by the same weights. Then the gradients of two units in
    a row differ by what the examples between their quantiles give: by one example times a factor, where there
    is one.
    """

    least: float = 1e-4
    """Of the largest difference of biases' gradients; a bin with less is taken for an empty one."""
    tolerance: float = 0.02
    """How far a recovered example may be outside of its bounds, in root mean square."""

    paper: ClassVar[str] = "Fowl et al. 2022"

    def weights(self, public: Public, like: NDArray[np.float64], rng: torch.Generator) -> Weights:
        """See `Trap`. The model's second layer must be a linear one, too, with ReLU between."""
        names, following = first_linear(public), _following(public)
        weight, bias = (public.module.get_parameter(name) for name in names)
        second = public.module.get_parameter(following)
        units = len(bias)
        cuts = np.quantile(like.mean(axis=1), np.arange(units) / units)
        same = torch.randn((len(second), 1), generator=rng, dtype=torch.float64) / np.sqrt(units)
        return {
            names[0]: torch.full_like(weight, 1 / prod(public.shape)),
            names[1]: torch.from_numpy(-cuts).to(bias.dtype),
            following: same.expand(second.shape).to(second.dtype).contiguous(),
        }

    def examples(self, gradient: Gradient, public: Public) -> Recovered:
        """See `Trap`."""
        names = first_linear(public)
        cuts = -public.module.get_parameter(names[1]).detach().double().numpy()
        order = np.argsort(cuts)
        weight, bias = (gradient[name].numpy().astype(np.float64)[order] for name in names)
        # Of the last unit there is none above.
        weight = weight - np.concatenate([weight[1:], np.zeros_like(weight[:1])])
        bias = bias - np.append(bias[1:], 0.0)
        filled = np.flatnonzero(np.abs(bias) > self.least * np.abs(bias).max(initial=0.0))
        found = weight[filled] / bias[filled, None]
        found = plausible(found, public, self.tolerance)
        return Recovered(found.reshape(-1, *public.shape))


def _following(public: Public) -> str:
    """The name of the second layer's weight. Raises ValueError where the model has no place for a trap."""
    layers = [(name, one) for name, one in public.module.named_modules() if not list(one.children())]
    kinds = [type(one) for _, one in layers if not isinstance(one, nn.Flatten)]
    if kinds[:3] != [nn.Linear, nn.ReLU, nn.Linear]:
        raise ValueError("the model does not begin with two linear layers and ReLU between them")
    _, second, *_ = (name for name, one in layers if isinstance(one, nn.Linear))
    return f"{second}.weight"
