"""The losses of a round's steps: added up in order, and held to be finite without a wait at every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from silofl.errors import DataError, UserCodeError

MOST = 64
"""Losses of a GPU that are looked at together, at most."""
WINDOW_S = 0.5
"""Time that they may take: what is read later is told later, and the watchdog sees no step meanwhile."""


@dataclass(frozen=True)
class NotFinite:
    """The first loss that was not finite."""

    step: int
    """From 1."""
    value: float


@final
class Losses:
    """The sum of losses, in float64 and in the order of the steps.

    A loss in the memory of the CPU is read at once. To read one of a GPU is to wait for all that was asked of
    it, so several are read together: first one, then twice as many as before while that takes less than
    `WINDOW_S`. A sum is the same however its losses were read.

    Attributes:
        steps: losses that were added.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._total, self._read = 0.0, 0
        self._waiting: list[Tensor] = []
        self._many, self._since = 1, time.monotonic()

    def add(self, loss: Tensor) -> NotFinite | None:
        """Take a step's loss, (), without its graph; the first that is known not to be finite, if any."""
        self.steps += 1
        if loss.device.type == "cpu" and not self._waiting:
            self._read += 1
            return self._count(float(loss))
        self._waiting.append(loss)
        return self.look() if len(self._waiting) >= self._many else None

    def look(self) -> NotFinite | None:
        """Read the losses that were not read yet; the first of them that is not finite, if any."""
        if not self._waiting:
            return None
        values = torch.stack([loss.to(self._waiting[0].device) for loss in self._waiting]).tolist()
        self._waiting.clear()
        now = time.monotonic()
        self._many = min(2 * self._many, MOST) if now - self._since < WINDOW_S else max(1, self._many // 2)
        self._since = now
        for value in values:
            self._read += 1
            if (found := self._count(value)) is not None:
                return found
        return None

    def _count(self, value: float) -> NotFinite | None:
        self._total += value
        return None if math.isfinite(value) else NotFinite(self._read, value)

    @property
    def total(self) -> float:
        """Of the losses that were read."""
        return self._total


def scalar_loss(loss: Any, silo: int) -> Tensor:
    """A task's loss as a tensor (). Raises DataError, saying what to return, where it is none."""
    wrong = ""
    if not isinstance(loss, Tensor):
        wrong = _no_tensor(loss)
    elif loss.numel() != 1:
        wrong = f"a tensor of shape {tuple(loss.shape)}: return its mean()"
    elif loss.is_meta:
        wrong = "a tensor on the device meta, which has no value: compute it of the batch"
    elif not loss.is_floating_point():
        wrong = f"a tensor of {loss.dtype}: return a floating-point tensor"
    elif torch.is_grad_enabled() and not loss.requires_grad:
        wrong = (
            "a tensor that does not depend on a trained parameter: compute it from the model's output, "
            "without detach(), item() or no_grad()"
        )
    if wrong:
        raise DataError(f"silo {silo}: the task's loss(model, batch) returned {wrong}", rank=silo)
    found: Tensor = loss
    return found.reshape(())


def _no_tensor(loss: Any) -> str:
    """What is wrong with a loss that is no tensor, in the middle of a sentence."""
    if loss is None:
        return "None: return a tensor; a model that makes its own loss makes none of a batch without labels"
    kind = f"a {type(loss).__name__}"
    if isinstance(loss, Mapping) and isinstance(loss.get("loss"), Tensor):
        return f'{kind}, which is all that the model gives: return its loss alone, out["loss"]'
    if isinstance(loss, (Mapping, list, tuple)):
        return f"{kind}: return one tensor, such as the sum of its parts"
    if isinstance(loss, (type, nn.Module)):
        return f"{kind}: call it with the model's output, and return what it gives"
    return f"{kind}: return a tensor made of the model's output, without item(), float() or numpy()"


def taken(
    batches: Iterable[tuple[Any, float]], step: Callable[[Any, float], Tensor]
) -> tuple[Losses, NotFinite | None, Any]:
    """The losses of a step with each batch and its weight; the first that is not finite, and its batch.

    Steps end there. The batch is None where it is not at hand.
    """
    losses = Losses()
    for number, (batch, weight) in enumerate(batches, 1):
        try:
            found = losses.add(step(batch, weight))
        except UserCodeError:  # which a model that is not finite may make the task raise
            found = losses.look()
            if found is None:
                raise
        if found is not None:
            return losses, found, batch if found.step == number else None
    return losses, losses.look(), None
