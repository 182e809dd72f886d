"""What of a model is its silo's own, for the silo's checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.training.slots import Slot, tensors_of

Arrays = dict[str, NDArray[Any]]


@final
class OwnState:
    """Counters, private tensors, and what was changed of buffers that are no part of the state dict.

    Tensors are looked up by name whenever they are needed, for a model may put others in their place.
    """

    def __init__(
        self,
        counters: Sequence[Slot],
        private: Sequence[Slot],
        caches: Sequence[Slot],
        moved: Callable[[], list[Slot]],
    ) -> None:
        self._counters, self._private, self._moved = counters, private, moved
        self._slots = {"counters": counters, "private": private, "caches": caches}

    def counters(self) -> Arrays:
        """Counters by name: copies."""
        return {slot.name: as_array(tensor).copy() for slot, tensor in tensors_of(self._counters)}

    def state(self) -> dict[str, Arrays]:
        """All, by kind and name: counters as copies, the others as views where they can be."""
        state = {"counters": self.counters(), "private": _arrays(self._private)}
        moved = _arrays(self._moved())
        return state | ({"caches": moved} if moved else {})

    def load(self, state: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
        """Take up an earlier `state()`."""
        with torch.no_grad():
            for kind, slots in self._slots.items():
                values = state.get(kind, {})
                for slot, tensor in tensors_of(slots):
                    if slot.name in values:
                        _set(slot, tensor, torch.from_numpy(values[slot.name]))

    def values(self) -> int:
        """How many values of private tensors there are."""
        return sum({id(tensor): tensor.numel() for _, tensor in tensors_of(self._private)}.values())


def _set(slot: Slot, tensor: Tensor, value: Tensor) -> None:
    if tensor.shape == value.shape:
        tensor.copy_(value)
    else:
        slot.put(value.to(tensor.device, tensor.dtype))


def _arrays(slots: Sequence[Slot]) -> Arrays:
    return {slot.name: as_array(tensor) for slot, tensor in tensors_of(slots)}


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor as an array: a view where it can be one; bfloat16, which NumPy lacks, becomes float32."""
    array: NDArray[Any] = (
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
    )
    return array


def subtract(values: NDArray[Any], before: NDArray[Any]) -> None:
    """values -= before, in place; what is not finite and was so before has changed by nothing."""
    constant = ~np.isfinite(before)
    if constant.any():
        constant &= (values == before) | (np.isnan(values) & np.isnan(before))
    with np.errstate(invalid="ignore"):
        values -= before
    values[constant] = 0


def to_arrays(node: Any) -> Any:
    """Tensors in nested dicts and lists become arrays: views of live memory where they can be."""
    if isinstance(node, Tensor):
        return as_array(node)
    if isinstance(node, dict):
        return {key: to_arrays(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [to_arrays(value) for value in node]
    return node


def to_tensors(node: Any) -> Any:
    """The inverse of `to_arrays`, but that tuples have become lists."""
    if isinstance(node, np.ndarray):
        return torch.from_numpy(node)
    if isinstance(node, dict):
        return {key: to_tensors(value) for key, value in node.items()}
    if isinstance(node, list):
        return [to_tensors(value) for value in node]
    return node
