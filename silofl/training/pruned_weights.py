"""Pruned weights in local training: zero before and after every step, and without a part in gradients."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from silofl.pruning.base import Weights
from silofl.training.flat import FlatModel
from silofl.types import Mask


@final
class PrunedWeights:
    """Which of a model's parameters are zero and stay so, whatever the optimizer is.

    Args:
        model: whose parameters they are; nothing is pruned without one.
        kept: which are left (P,); all without it.
    """

    def __init__(self, model: FlatModel | None = None, kept: Mask | None = None) -> None:
        self._kept = kept
        self._pruned: tuple[Tensor, Tensor] | None = None
        self._tensors: list[tuple[Tensor, Tensor]] = []
        if model is None or kept is None or kept.all():
            return
        pruned = torch.from_numpy(~kept).to(model.vector.device)
        self._pruned = model.parameters, pruned
        self._tensors = [
            (model.trained[one.name], pruned[one.place].view(one.shape))
            for one in weights_of(model)
            if not kept[one.place].all()
        ]

    def following(self, model: FlatModel, kept: Mask | None) -> PrunedWeights:
        """Those of another mask; the same object where it is the same one."""
        return self if kept is self._kept else PrunedWeights(model, kept)

    def clear_gradients(self) -> None:
        """Zero their gradients, where those are dense: norms and moments are of what is left."""
        for parameter, pruned in self._tensors:
            if parameter.grad is not None and not parameter.grad.is_sparse:
                parameter.grad.masked_fill_(pruned, 0)

    def clear(self) -> None:
        """Zero the weights themselves, which momentum may have moved."""
        if self._pruned is not None:
            parameters, pruned = self._pruned
            parameters.masked_fill_(pruned, 0)


def weights_of(model: FlatModel) -> list[Weights]:
    """The parameters that a mask may have places of, in the model's order: real ones."""
    shared, found = model.shared(), []
    starts = np.concatenate([[0], model.tensor_ends[:-1]])
    for name, shape, start in zip(model.tensor_names, model.tensor_shapes, starts.tolist(), strict=True):
        tensor = shared[name]
        if not tensor.is_complex():
            found.append(Weights(name, shape, slice(start, start + tensor.numel())))
    return found
