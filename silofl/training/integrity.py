"""What local training may not change in a model: where shared tensors lie, and what is not shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, final

import torch
from torch import Tensor, nn

from silofl.errors import TrainingError
from silofl.training.slots import Slot, checksum, is_number, slots_of

NOT_SHARED = "register it with persistent=False, or let the task's attribute private match its name"


@dataclass(frozen=True)
class Shared:
    """One name of a shared tensor."""

    slot: Slot
    held: Tensor
    """What is registered there, whose memory is `view`."""
    view: Tensor
    """Of the model's vector."""
    tied: bool
    """Whether it has other names."""


@dataclass(frozen=True)
class _Fixed:
    """A tensor that is equal in all silos because none changes it."""

    slot: Slot
    sum: bytes
    dtype: torch.dtype
    frozen: bool
    remedy: str

    def changed(self) -> bool:
        """Whether its values are others."""
        tensor = self.slot.tensor
        assert tensor is not None
        return tensor.dtype != self.dtype or checksum(tensor) != self.sum


@final
class Integrity:
    """Compares a model with what it was at the start, and takes back what was only put elsewhere.

    Costs a comparison of addresses a tensor, and one pass over the memory of what is not shared: less than
    a training step, which reads the same memory more often.

    Args:
        module: the model, whose tensors lie where they are to lie.
        shared: all names of shared tensors.
        frozen: parameters that do not travel.
        constants: buffers of the state dict that are not shared: integer ones that are no counters, or all.
        caches: buffers that are no part of the state dict.
        overlapping: buffers that lay in one memory with others, which only constants can.
    """

    def __init__(
        self,
        module: nn.Module,
        shared: Sequence[Shared],
        frozen: Sequence[Slot],
        constants: Sequence[Slot],
        caches: Sequence[Slot],
        overlapping: Iterable[Slot],
    ) -> None:
        self._module, self._shared = module, shared
        self._known = {slot.name for slot in slots_of(module)}
        average = "which requires no gradient and so is not shared: make it a buffer, which is averaged, or"
        private = "let the task's attribute private match its name"
        self._fixed = [
            *(_fixed(slot, f"{average} {private}") for slot in frozen),
            *(_fixed(slot, _constant(slot)) for slot in constants),
        ]
        self._overlapping = dict.fromkeys(overlapping, b"")
        self.loaded()
        noise = "which has no noise, and may not decide what a silo tells under [privacy]: do not"
        self._caches = [_fixed(slot, f"{noise} change it in training") for slot in caches]

    def changed_caches(self) -> list[Slot]:
        """The buffers that are no part of the state dict and are not as they were."""
        return [one.slot for one in self._caches if one.slot.tensor is not None and one.changed()]

    def loaded(self) -> None:
        """Note what buffers that may not change are, now that shared values were set."""
        for slot in self._overlapping:
            self._overlapping[slot] = b"" if slot.tensor is None else checksum(slot.tensor)

    def adopt(self, *, keep: bool, in_place: bool = False) -> None:
        """Put views of the vector back where training put other tensors; `keep` takes over their values.

        Raises TrainingError where that is not possible, and everywhere if `in_place`.
        """
        for one in self._shared:
            tensor = one.slot.tensor
            if tensor is one.held and _same_memory(tensor, one.view):
                continue
            _refuse_other(one, tensor)
            assert tensor is not None
            if in_place:
                _fail(f"put another tensor in the place of {one.slot}", "write into it instead")
            if keep:
                one.view.copy_(tensor.detach())
            one.held.data = one.view
            one.slot.put(one.held)

    def check(self, *, own: bool) -> None:
        """Refuse what training did to tensors that are not shared.

        Args:
            own: buffers that are the silo's own may not have changed either, but for counters.

        Raises:
            TrainingError: what was changed, and the remedy.
        """
        for slot in slots_of(self._module):
            if slot.persistent and slot.name not in self._known:
                _fail(f"added {slot}", f"register it in model(), as long as it will be, or {NOT_SHARED}")
        for one in (*self._fixed, *(self._caches if own else ())):
            tensor = one.slot.tensor
            if tensor is None:
                _fail(f"removed {one.slot}", "keep it registered")
            elif one.frozen and tensor.requires_grad:
                _fail(f"unfroze {one.slot}", "let it require a gradient in model() already")
            elif one.changed():
                _fail(f"changed {one.slot}", one.remedy, ", ")
        for slot, before in self._overlapping.items():
            if slot.tensor is not None and checksum(slot.tensor) != before:
                _fail(f"changed {slot}", "which lies in one memory with another: clone() it in model()", ", ")


def _constant(slot: Slot) -> str:
    """Why such a buffer may not change."""
    tensor = slot.tensor
    if tensor is not None and is_number(tensor):
        return (
            "which would be shared without noise under [privacy]: use a layer without statistics, such as "
            "torch.nn.GroupNorm, or leave it as model() made it"
        )
    return f"of which no mean can be made: {NOT_SHARED}"


def _fixed(slot: Slot, remedy: str) -> _Fixed:
    tensor = slot.tensor
    assert tensor is not None
    return _Fixed(slot, checksum(tensor), tensor.dtype, slot.is_parameter, remedy)


def _same_memory(tensor: Tensor, view: Tensor) -> bool:
    return (
        tensor.data_ptr() == view.data_ptr()
        and tensor.dtype == view.dtype
        and tensor.shape == view.shape
        and tensor.stride() == view.stride()
    )


def _refuse_other(one: Shared, tensor: Tensor | None) -> None:
    """Raise TrainingError for a tensor that cannot be taken back."""
    if tensor is None:
        _fail(f"removed {one.slot}", "which is shared: keep it registered", ", ")
    elif tensor is not one.held and one.slot.is_parameter:
        remedy = "write into it instead, as in p.copy_(...) under torch.no_grad()"
        _fail(f"replaced {one.slot} by another, which no optimizer has", remedy)
    elif tensor is not one.held and one.tied:
        _fail(f"replaced {one.slot}, which has another name as well", "write into it instead")
    elif (tensor.dtype, tensor.shape, tensor.device) != (one.view.dtype, one.view.shape, one.view.device):
        _fail(
            f"made {one.slot} {_described(tensor)}, which was {_described(one.view)}",
            f"keep its type, shape and device{'' if one.slot.is_parameter else f', or {NOT_SHARED}'}",
        )


def _described(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return f"{name} of shape {tuple(tensor.shape)} on {tensor.device}"


def _fail(what: str, remedy: str, joint: str = "; ") -> NoReturn:
    raise TrainingError(f"local training {what}{joint}{remedy}")
