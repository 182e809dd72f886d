"""Memory that the ranks of a silo share: the model's values, and each rank's gradients."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silofl.training.batches import Batches
from silofl.training.flat import FlatModel

ALIGNMENT = 64
"""Bytes."""


class TeamMemory:
    """Places for everything that a step changes, in the order of the model; the same in every rank.

    Values are those of parameters that are trained and of real and complex buffers. Whether a parameter has a
    gradient has a place of its own, for optimizers leave out those without one.

    Args:
        model: of this rank.
        ranks: of the silo; the first one's gradients need no place.
        file: descriptor of an anonymous file.
        make: give it its length, as the first rank does; the others' parameters lie there, on a CPU.
    """

    def __init__(self, model: FlatModel, ranks: int, file: int, *, make: bool = False) -> None:
        self._parameters, self._module = list(model.trained.values()), model.module
        self._buffers = [name for name, one in model.module.named_buffers() if _is_number(one)]
        laid = [*self._tensors(), *(one for _ in range(1, ranks) for one in self._parameters)]
        ends = np.cumsum([0, *(_room(one) for one in laid)]).tolist()
        flags = (ranks - 1) * len(self._parameters)
        if make:
            os.ftruncate(file, ends[-1] + flags)
        memory = mmap.mmap(file, ends[-1] + flags)
        places = [_view(memory, start, one) for start, one in zip(ends[:-1], laid, strict=True)]
        values, each = len(places) - flags, len(self._parameters)
        self._values = places[:values]
        self._gradients = [places[values + k * each : values + (k + 1) * each] for k in range(ranks - 1)]
        self._lies_there = not make and all(one.device.type == "cpu" for one in self._parameters)
        if self._lies_there:
            for parameter, place in zip(self._parameters, self._values, strict=False):
                parameter.data = place
        self._given = np.frombuffer(memory, np.bool_, flags, ends[-1]).reshape(ranks - 1, each)

    def _tensors(self) -> list[Tensor]:
        """Parameters and buffers as they are now: a forward pass may have put others in their place."""
        buffers = dict(self._module.named_buffers())
        return [one.detach() for one in (*self._parameters, *(buffers[name] for name in self._buffers))]

    @torch.no_grad()
    def publish(self) -> None:
        """Give the other ranks this one's values."""
        _copy(self._values, self._tensors())

    @torch.no_grad()
    def load(self) -> None:
        """Take the first rank's values."""
        known = len(self._parameters) if self._lies_there else 0
        _copy(self._tensors()[known:], self._values[known:])

    @torch.no_grad()
    def put_gradients(self, rank: int) -> None:
        """Give this rank's gradients to the first one."""
        for k, (place, parameter) in enumerate(zip(self._gradients[rank - 1], self._parameters, strict=True)):
            self._given[rank - 1, k] = parameter.grad is not None
            if parameter.grad is not None:
                place.copy_(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)

    @torch.no_grad()
    def add_gradients(self, rank: int) -> None:
        """Add a rank's gradients to this one's; not to parameters that are not trained now."""
        for k, (place, parameter) in enumerate(zip(self._gradients[rank - 1], self._parameters, strict=True)):
            if not (self._given[rank - 1, k] and parameter.requires_grad):
                continue
            if parameter.grad is None:
                parameter.grad = place.to(parameter.device, copy=True)
            elif parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense() + place.to(parameter.device)
            else:
                parameter.grad += place.to(parameter.device)


def layout(model: FlatModel, train: Batches) -> tuple[Any, ...]:
    """What is equal in all ranks of a silo: the model without its values, and how many samples there are."""
    own = [(name, tuple(one.shape)) for name, one in model.trained.items()]
    return model.fingerprint(), own, len(train)


def _is_number(one: Tensor) -> bool:
    return one.is_floating_point() or one.is_complex()


def _room(one: Tensor) -> int:
    length = one.numel() * one.element_size()
    return length + -length % ALIGNMENT


def _view(memory: mmap.mmap, start: int, one: Tensor) -> Tensor:
    """A tensor like `one` on the CPU, whose memory begins there."""
    if not one.numel():
        return torch.empty(one.shape, dtype=one.dtype)
    return torch.frombuffer(memory, dtype=one.dtype, count=one.numel(), offset=start).view(one.shape)


def _copy(into: Sequence[Tensor], given: Sequence[Tensor]) -> None:
    for place, values in zip(into, given, strict=True):
        place.copy_(values)
