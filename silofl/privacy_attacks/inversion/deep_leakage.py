"""Examples whose gradient is the same, found by a second-order optimizer."""

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
class DeepLeakage(GradientInversion):
    """Deep leakage from gradients (DLG; Zhu et al. 2019, algorithm 1), labels as in iDLG (Zhao et al. 2020).

    L-BFGS on the squared distance of gradients, from normal noise. It needs a model whose gradient changes
    smoothly with the example: with ReLU it mostly finds none.
    """

    steps: int = 100
    """Calls of L-BFGS, of 20 iterations each, at most."""
    restarts: int = 3
    """From other noise; the one of least distance is taken."""

    paper: ClassVar[str] = "Zhu et al. 2019"

    def examples(self, gradient: Gradient, public: Public, rng: torch.Generator) -> Recovered:
        """See `GradientInversion`."""
        module, labels = precise(public.module), torch.from_numpy(labels_of(gradient, public))
        best, least = None, math.inf
        for _ in range(self.restarts):
            start = torch.randn((len(labels), *public.shape), generator=rng, dtype=torch.float64)
            found, value = self._descend(start, lambda x: squared(gradient_of(module, x, labels), gradient))
            if best is None or value < least:
                best, least = found, value
        assert best is not None, "there is one start at least"
        return Recovered(best.numpy(), labels.numpy())

    def _descend(self, x: Tensor, distance: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
        """Where the distance is small, from x on, and the distance there."""
        x = x.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([x], line_search_fn="strong_wolfe")
        before = math.inf

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = distance(x)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        for _ in range(self.steps):
            value = float(optimizer.step(closure).detach())  # type: ignore[no-untyped-call]
            if not value < before:
                break
            before = value
        return x.detach(), float(distance(x).detach())


def squared(one: Mapping[str, Tensor], other: Gradient) -> Tensor:
    """The squared distance of two gradients, ()."""
    return torch.stack([(values - other[name]).square().sum() for name, values in one.items()]).sum()
