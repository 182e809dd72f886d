"""Gradients of single examples, as Opacus finds them, held to autograd's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from silofl.errors import ConfigError
from silofl.training.batches import Batches
from silofl.training.flat import FlatModel
from silofl.training.per_example import ExampleGradients
from silofl.training.seeding import generators_kept, seed_everything

EXAMPLES = 3
"""How many are looked at."""

TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""How much of a parameter's norm may be missing, over the norm of the whole gradient."""

TOO_LONG = 0.5
"""What it may be too long by, over the same: ghost clipping adds what rounding may hide, which is safe."""

SMALL = 1e-3
"""The least of what losses are scaled by when it is tried whether gradients scale with them."""

Loss = Callable[[Any, int], Tensor]
"""Losses of a batch of so many examples: (batch,), or their mean ()."""


def check_gradients(
    examples: ExampleGradients, loss: Loss, train: Batches, index: Tensor, model: FlatModel, silo: int
) -> bool:
    """Compare norms of a few examples with those of autograd, one by one.

    Finds layers that Opacus follows wrongly, parameters that are used outside of their layer, and losses
    that are no mean of the examples' own. A model with dropout is given one example at a time, under the
    same random numbers. Global generators are left as they were.

    Returns:
        Whether there was anything to compare: a gradient that is finite and not zero.

    Raises:
        ConfigError: they differ; names the parameter where they differ most.
    """
    few = index[:EXAMPLES]
    with generators_kept(model.vector.device):
        expected = torch.stack([_by_autograd(loss, train, one, model) for one in torch.split(few, 1)], dim=1)
        parts = torch.split(few, 1) if _is_random(loss, train, few) else (few,)
        found = torch.cat([_by_hooks(examples, loss, train, part) for part in parts], dim=1)
        linear = _is_linear(loss, train, few, model)
    worst = _worst(found, expected)
    if bool(worst.max() > TOLERANCE[model.vector.dtype]):
        raise ConfigError(
            f"silo {silo}: [privacy] needs the gradients of single examples, and those of "
            f"parameter {examples.names[int(worst.argmax())]} are not what autograd finds for one example "
            "alone: its layer is used outside of its own forward() or unknown to Opacus, or the task's loss "
            "is no mean over examples that do not meet; change the layer or the loss, or set "
            "privacy.clipping to another of 'ghost', 'hooks' and 'functorch'",
            rank=silo,
        )
    if not linear:
        raise ConfigError(
            f"silo {silo}: [privacy] scales losses, and gradients do not scale with them: a "
            "hook on a tensor, or a function with a backward() of its own, changes them, so that clipping "
            "bounds nothing; remove it from the model",
            rank=silo,
        )
    return bool((expected.norm(dim=0).nan_to_num(0, 0) > 0).any())


def _worst(found: Tensor, expected: Tensor) -> Tensor:
    """What is missing of a parameter's norms, and what is far too much, over the norm of the whole gradient.

    Where a norm is not finite nothing is compared: those examples are left out, or are not followed at all.
    """
    size = expected.norm(dim=0)
    usable = size.isfinite() & found.isfinite().all(dim=0)
    # An example of which the model is sure has no gradient.
    excess = (found - expected)[:, usable] / size[usable].clamp(min=1e-12)
    worst: Tensor = torch.where(excess > TOO_LONG, excess, -excess).clamp(min=0).sum(dim=1)
    return worst


def _by_autograd(loss: Loss, train: Batches, one: Tensor, model: FlatModel) -> Tensor:
    """Norms (parameters,) of one example's gradient."""
    seed_everything(0)
    parameters = [p for p in model.module.parameters() if p.requires_grad]
    value = loss(train.take(one), 1).sum()
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.stack([gradient.norm() for gradient in gradients])


def _by_hooks(examples: ExampleGradients, loss: Loss, train: Batches, part: Tensor) -> Tensor:
    seed_everything(0)
    try:
        with examples.watching(len(part)):
            return examples.norms(loss(train.take(part), len(part)))
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, RuntimeError, ValueError) as error:
        raise examples.not_followed(error) from error  # without the hooks it went well


def _is_linear(loss: Loss, train: Batches, few: Tensor, model: FlatModel) -> bool:
    """Whether gradients of scaled losses are the scaled gradients, as clipping by scaled losses counts on.

    True of a loss that is a mean: there every gradient is scaled when it is known.
    """
    seed_everything(0)
    losses = loss(train.take(few), len(few))
    if not losses.dim():
        return True
    parameters = [p for p in model.module.parameters() if p.requires_grad]

    def gradient(scales: Tensor) -> Tensor:
        parts = torch.autograd.grad(
            losses, parameters, scales, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts])

    count = len(few)
    scales = [SMALL ** ((row + 1) / count) for row in range(count)]
    difference, size = gradient(losses.new_tensor(scales)), 0.0
    for scale, row in zip(scales, torch.eye(count, dtype=losses.dtype, device=losses.device), strict=True):
        alone = gradient(row)
        difference.sub_(alone, alpha=scale)
        size += scale * float(alone.norm())
    worst = float(difference.norm())
    return not (math.isfinite(worst) and worst > TOLERANCE[model.vector.dtype] * size)


def _is_random(loss: Loss, train: Batches, few: Tensor) -> bool:
    """Whether the loss depends on more than the model and the samples."""
    values = []
    with torch.no_grad():
        for seed in (0, 1):
            seed_everything(seed)
            values.append(loss(train.take(few), len(few)))
    return not torch.equal(*(value.nan_to_num() for value in values))
