"""What a gradient inversion is: examples from the gradient of their mean loss, and what is public beside it.

An inversion is one file of this folder: a final frozen dataclass whose fields have defaults. The loss is
softmax cross entropy, the mean over the examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Gradient = Mapping[str, Tensor]
"""Of each parameter that is trained, by its name in the module."""


@dataclass(frozen=True)
class Public:
    """What an attacker knows beside a gradient.

    Attributes:
        module: the model, with the values at which the gradient was taken; not changed.
        shape: of one example, such as (1, 8, 8).
        classes: how many there are.
        examples: how many the gradient is of, or how many of them are asked for.
        low, high: between which an example's values are.
        candidates: examples (n, *shape) and labels (n,) of the attacker's own, some of which it may be of.
        noise: standard deviation of normal noise on each value of the gradient, as a ledger tells it.
        clip: the L2 norm to which each example's gradient was clipped.
    """

    module: nn.Module
    shape: tuple[int, ...]
    classes: int
    examples: int = 1
    low: float = 0.0
    high: float = 1.0
    candidates: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
    noise: float = 0.0
    clip: float | None = None


@dataclass(frozen=True)
class Recovered:
    """Examples as an attack believes them to be.

    Attributes:
        examples: float64 (m, *shape).
        labels: int64 (m,), where it has any.
    """

    examples: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None


class GradientInversion(ABC):
    """An attack on a gradient."""

    paper: ClassVar[str]
    """Where it is from."""

    @abstractmethod
    def examples(self, gradient: Gradient, public: Public, rng: torch.Generator) -> Recovered:
        """At most `public.examples` of the examples, the surest first.

        Raises ValueError, of one sentence, where the model has nothing that it could be read from.
        """


def by_name(module: nn.Module, vector: NDArray[np.generic]) -> dict[str, Tensor]:
    """A vector (P,) of all trained parameters, in the module's order, cut by name: float64."""
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    whole, sizes = torch.from_numpy(np.asarray(vector, np.float64)), [one.numel() for one in trained.values()]
    if whole.numel() != sum(sizes):
        raise ValueError(f"a gradient of {whole.numel()} values is not of a model of {sum(sizes)}")
    parts = zip(trained.items(), torch.split(whole, sizes), strict=True)
    return {name: part.view(one.shape) for (name, one), part in parts}


def precise(module: nn.Module) -> nn.Module:
    """A copy in float64, in evaluation mode, as attackers work on it."""
    return deepcopy(module).double().eval()


def gradient_of(module: nn.Module, examples: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The gradient of the mean loss, which can be differentiated again.

    Args:
        module: of the examples' type.
        examples: (m, *shape).
        targets: class numbers (m,), or probabilities (m, classes).
    """
    trained = {name: one for name, one in module.named_parameters() if one.requires_grad}
    loss = functional.cross_entropy(module(examples), targets)
    every = torch.autograd.grad(loss, list(trained.values()), create_graph=True)
    return dict(zip(trained, every, strict=True))


def each_gradient(
    module: nn.Module, examples: NDArray[np.float64], labels: NDArray[np.int64], clip: float | None = None
) -> NDArray[np.float64]:
    """The gradient of each example alone, (m, P), values in the module's order; clipped to an L2 norm."""
    module = precise(module)
    trained = {name: one.detach() for name, one in module.named_parameters() if one.requires_grad}

    def loss(values: dict[str, Tensor], example: Tensor, label: Tensor) -> Tensor:
        outputs = torch.func.functional_call(module, values, (example[None],))
        return functional.cross_entropy(outputs, label[None])

    slopes = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    every = slopes(trained, torch.from_numpy(examples), torch.from_numpy(labels))
    rows = torch.cat([every[name].flatten(1) for name in trained], dim=1).numpy()
    if clip is not None:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows * np.minimum(1.0, clip / np.maximum(lengths, 1e-12))
    return np.asarray(rows)
