"""Norms of the gradients of linear layers by ghost clipping, never below the true ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ROUNDING = 16 * torch.finfo(torch.float64).eps


def linear_norms(layer: nn.Linear, activations: list[Tensor], backprops: Tensor) -> dict[Tensor, Tensor]:
    """L2 norms (batch,) of each example's gradient, for the layer's parameters that are trained.

    Takes the place of Opacus' rule. Where a layer meets an example at several places (a sequence), the
    squared norm is a sum of terms of both signs (Li et al. 2022, "Large Language Models Can Be Strong
    Differentially Private Learners", section 4). In float32 they can cancel to nothing while the gradient is
    many times the bound, so they are summed in float64, and what rounding may still hide is added.

    Args:
        layer: the layer.
        activations: what went into it: (batch, ..., inputs).
        backprops: what came back to it: (batch, ..., outputs).
    """
    a, g = activations[0].to(backprops.dtype), backprops
    if g.dim() == 2:
        length = g.norm(dim=1)
        weight, bias = length * a.norm(dim=1), length
    else:
        a, g = a.flatten(1, -2).double(), g.flatten(1, -2).double()
        terms = (g @ g.mT).mul_(a @ a.mT).sum(dim=(1, 2)).clamp_(min=0)
        most = (g.norm(dim=2) * a.norm(dim=2)).sum(dim=1)
        norm = (terms + most.square() * _ROUNDING).sqrt_()
        norm += most * (8 * torch.finfo(backprops.dtype).eps)  # the gradient itself is summed in that type
        weight, bias = norm.to(backprops.dtype), g.sum(dim=1).norm(dim=1)
    norms: dict[Tensor, Tensor] = {layer.weight: weight}
    if layer.bias is not None:
        norms[layer.bias] = bias.to(backprops.dtype)
    return norms
