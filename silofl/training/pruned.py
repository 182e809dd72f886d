"""Pruned weights in local training: zero before and after every step, and without a part in gradients."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from silofl.pruning.base import Weights
from silofl.training.flat import FlatModel
from silofl.types import Mask


@final
class PrunedWeights:
    """Which of a model's parameters are zero and stay so, whatever the optimizer is.

    Args:
        model: whose parameters they are.
        kept: which are left (P,).
    """

    def __init__(self, model: FlatModel, kept: Mask) -> None:
        self._model, self.kept = model, kept
        self._pruned = torch.from_numpy(~kept).to(model.vector.device)
        self._tensors = [
            (model.trained[one.name], self._pruned[one.place].view(one.shape))
            for one in weights_of(model)
            if not kept[one.place].all()
        ]

    def clear_gradients(self) -> None:
        """Zero their gradients, where those are dense: norms and moments are of what is left."""
        for parameter, pruned in self._tensors:
            if parameter.grad is not None and not parameter.grad.is_sparse:
                parameter.grad.masked_fill_(pruned, 0)

    def clear(self) -> None:
        """Zero the weights themselves, which momentum may have moved."""
        self._model.parameters.masked_fill_(self._pruned, 0)


def pruned_weights(model: FlatModel, kept: Mask | None, before: PrunedWeights | None) -> PrunedWeights | None:
    """A model's, by its mask (P,): the one `before` where that is the same; None where nothing is pruned."""
    if kept is None or kept.all():
        return None
    return before if before is not None and before.kept is kept else PrunedWeights(model, kept)


def weights_of(model: FlatModel) -> list[Weights]:
    """The parameters that a mask may have places of, in the model's order: real ones."""
    shared, found = model.shared(), []
    starts = np.concatenate([[0], model.tensor_ends[:-1]])
    for name, shape, start in zip(model.tensor_names, model.tensor_shapes, starts.tolist(), strict=True):
        tensor = shared[name]
        if not tensor.is_complex():
            found.append(Weights(name, shape, slice(start, start + tensor.numel())))
    return found
