"""Examples whose gradient points the same way, for models of any kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from silofl.privacy_attacks.inversion._labels import labels_of
from silofl.privacy_attacks.inversion.base import (
    Gradient,
    GradientInversion,
    Public,
    Recovered,
    gradient_of,
    precise,
)


@final
@dataclass(frozen=True)
class CosineMatching(GradientInversion):
    """Inverting gradients (Geiping et al. 2020, equation 4): cosine similarity and total variation.

    Adam on the sign of the objective's gradient, with three steps down of the rate, and values kept within
    their bounds, as in the authors' code. No scale of the gradient is needed.
    """

    steps: int = 800
    """Steps of Adam."""
    rate: float = 0.1
    """Of Adam, to begin with."""
    variation: float = 1e-3
    """Weight of the total variation, which neighbours in an image keep small."""
    restarts: int = 2
    """From other noise; the one of the least objective is taken."""

    paper: ClassVar[str] = "Geiping et al. 2020"

    def examples(self, gradient: Gradient, public: Public, rng: torch.Generator) -> Recovered:
        """See `GradientInversion`."""
        module, labels = precise(public.module), torch.from_numpy(labels_of(gradient, public))

        def objective(x: Tensor) -> Tensor:
            away = 1 - cosine(gradient_of(module, x, labels), gradient)
            return away + self.variation * total_variation(x)

        best, least = None, math.inf
        for _ in range(self.restarts):
            x = torch.rand((len(labels), *public.shape), generator=rng, dtype=torch.float64)
            x = self._descend(public.low + (public.high - public.low) * x, objective, public)
            value = float(objective(x).detach())
            if best is None or value < least:
                best, least = x, value
        assert best is not None, "there is one start at least"
        return Recovered(best.numpy(), labels.numpy())

    def _descend(self, x: Tensor, objective: Callable[[Tensor], Tensor], public: Public) -> Tensor:
        x = x.requires_grad_()
        optimizer = torch.optim.Adam([x], lr=self.rate)
        drops = [self.steps * part // 8 for part in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, drops, gamma=0.1)
        for _ in range(self.steps):
            optimizer.zero_grad()
            (slope,) = torch.autograd.grad(objective(x), x)
            x.grad = slope.sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                x.clamp_(public.low, public.high)
        return x.detach()


def cosine(one: Mapping[str, Tensor], other: Gradient) -> Tensor:
    """The cosine of the angle between two gradients, (); 0 where one is zero."""
    along = torch.stack([(values * other[name]).sum() for name, values in one.items()]).sum()
    lengths = [
        torch.stack([values.square().sum() for values in every]).sum()
        for every in (one.values(), [other[name] for name in one])
    ]
    return along / (lengths[0] * lengths[1]).clamp_min(1e-60).sqrt()


def total_variation(x: Tensor) -> Tensor:
    """Mean distance of neighbours in images (m, channels, h, w), along both sides, (); 0 of tables."""
    if x.ndim != 4:
        return x.new_zeros(())
    return x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
