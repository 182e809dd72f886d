"""Why a round's training gave values that are not finite, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from silofl.training.flat import FlatModel

Loss = Callable[[Any], Tensor]
"""The loss () of a batch."""

LOOK = (
    "look for a division by zero, or the logarithm, the root or the norm of zero, in the model and in the "
    "task's loss()"
)


def cause_at_the_start(model: FlatModel, loss: Loss, exact: Loss | None, batch: Any) -> str | None:
    """What is not finite of a batch, or of its loss or gradients at the model that the round began with.

    Args:
        model: with the values that the round began with; its gradients are written over.
        loss: as it is trained on.
        exact: the same without mixed precision, where there is one.
        batch: on which training failed, or the round's first.

    Returns:
        What it is, and the remedy; None where all is finite, so that it was training that led away from it.
    """
    entry = next(_nonfinite_entries(batch, ""), None)
    if entry is not None:
        return f"a batch has values that are not finite{entry}; leave such samples out, or fill them in"
    if not bool(model.parameters.isfinite().all()):
        return None
    for parameter in model.trained.values():
        parameter.grad = None
    value = loss(batch)
    if not bool(value.isfinite().all()):
        if exact is not None and bool(exact(batch).isfinite().all()):
            return 'a loss is too large for the type of train.precision; set train.precision = "full"'
        return f"a loss is not finite before the first step of the round{_constants(model)}; {LOOK}"
    value.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.trained.items():
        if parameter.grad is not None and not _finite(parameter.grad):
            return (
                f"the gradient of {name} is not finite before the first step of the round, "
                f"though the loss is; {LOOK}"
            )
    return None


def _finite(gradient: Tensor) -> bool:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(values.isfinite().all())


def _constants(model: FlatModel) -> str:
    """Buffers that may be the reason."""
    buffers = [name for name in model.buffer_names if not _finite(model.shared()[name])]
    return f" (buffer {buffers[0]} has values that are not finite)" if buffers else ""


def _nonfinite_entries(batch: Any, where: str) -> Iterator[str]:
    """Where in a batch a tensor has values that are not finite, such as ` in entry 0`."""
    if isinstance(batch, Tensor):
        if not _finite(batch):
            yield where
    elif isinstance(batch, dict):
        for key, value in batch.items():
            yield from _nonfinite_entries(value, f" in entry {key!r}")
    elif isinstance(batch, (list, tuple)):
        for index, value in enumerate(batch):
            yield from _nonfinite_entries(value, f" in entry {index}")
