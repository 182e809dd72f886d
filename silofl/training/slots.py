"""The places of a module where parameters and buffers are registered, and what is there now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, final

import torch
from torch import Tensor, nn

COMPILED = "_orig_mod."
"""What torch.compile puts into names; `plain_name` takes it out."""

COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}
"""The complex type whose parts are of a real one."""


WORDS = 1021
"""How many words of 64 bits a row of `checksum` has: odd, so that signs that all change change its sum."""


def plain_name(name: str) -> str:
    """A name in the state dict as the model has it that is not compiled."""
    return name.replace(COMPILED, "")


@final
@dataclass(frozen=True)
class Slot:
    """One name of a parameter or of a buffer; tied tensors have several."""

    name: str
    owner: nn.Module
    leaf: str
    is_parameter: bool

    @property
    def tensor(self) -> Tensor | None:
        """What is registered here now."""
        table: dict[str, Any] = self.owner._parameters if self.is_parameter else self.owner._buffers
        found = table.get(self.leaf)
        return found if isinstance(found, Tensor) else None

    def put(self, tensor: Tensor) -> None:
        """Register another tensor here."""
        table: dict[str, Any] = self.owner._parameters if self.is_parameter else self.owner._buffers
        table[self.leaf] = tensor

    @property
    def persistent(self) -> bool:
        """Whether it is part of the state dict."""
        return self.is_parameter or self.leaf not in self.owner._non_persistent_buffers_set

    @property
    def kind(self) -> str:
        """`parameter` or `buffer`, for messages."""
        return "parameter" if self.is_parameter else "buffer"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def slots_of(module: nn.Module) -> list[Slot]:
    """All that is registered, under each of its names: parameters first, in the module's order."""
    modules = [
        (plain_name(f"{path}."), owner) for path, owner in module.named_modules(remove_duplicate=False)
    ]
    prefixed = [(path if path != "." else "", owner) for path, owner in modules]
    parameters = [
        Slot(path + leaf, owner, leaf, True) for path, owner in prefixed for leaf in owner._parameters
    ]
    buffers = [Slot(path + leaf, owner, leaf, False) for path, owner in prefixed for leaf in owner._buffers]
    return [slot for slot in (*parameters, *buffers) if slot.tensor is not None]


def tensors_of(slots: Iterable[Slot]) -> list[tuple[Slot, Tensor]]:
    """What is registered, with its place."""
    return [(slot, tensor) for slot in slots if (tensor := slot.tensor) is not None]


def ties(slots: Iterable[Slot]) -> list[list[Slot]]:
    """The places of each tensor."""
    groups: dict[int, list[Slot]] = {}
    for slot, tensor in tensors_of(slots):
        groups.setdefault(id(tensor), []).append(slot)
    return list(groups.values())


def convert(module: nn.Module, slots: Iterable[Slot], dtype: torch.dtype, device: torch.device) -> None:
    """Move a module to a device and a real type, as `Module.to`: complex tensors stay complex, ties ties."""
    groups = ties(slots)

    def place(tensor: Tensor) -> Tensor:
        moved = tensor.to(device, like(dtype, tensor))
        if _repeats(moved):
            return moved.contiguous()
        return moved.clone() if moved.is_inference() else moved

    module._apply(place)  # type: ignore[no-untyped-call]
    for first, *others in groups:
        for slot in others:
            if first.tensor is not None:
                slot.put(first.tensor)


def _repeats(tensor: Tensor) -> bool:
    """Whether several of its elements are one in memory, as expand() makes them: none can be written."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return False
    return any(step == 0 and size > 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True))


def like(dtype: torch.dtype, tensor: Tensor) -> torch.dtype:
    """The type of a tensor in a model of this real type: integers keep theirs."""
    if tensor.is_complex():
        return COMPLEX.get(dtype, tensor.dtype)
    return dtype if tensor.is_floating_point() else tensor.dtype


def is_number(tensor: Tensor) -> bool:
    """Whether it is real or complex, so that a mean of it can be made."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_counter(slot: Slot, tensor: Tensor) -> bool:
    """Whether it is an integer buffer of one value, which every silo counts up for itself.

    One of a byte is a flag, such as that a layer was set up by its first batch: the model file would have it
    unset beside what was set up.
    """
    one = tensor.numel() == 1 and tensor.dtype not in (torch.bool, torch.uint8, torch.int8)
    return one and not slot.is_parameter and slot.persistent and not is_number(tensor)


def checksum(tensor: Tensor) -> bytes:
    """What a tensor's bits make of a few sums, each one pass over its memory on its device.

    The sums of the rows and of the columns of its words, which no change of one word leaves as they are, no
    swap of two that differ, and none that adds the same to all. It finds what training changes by accident;
    it is no cryptographic digest of the tensor.
    """
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    raw = dense.resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
    if raw.data_ptr() % 8 or raw.storage_offset() % 8:
        raw = raw.clone()
    words = raw[: len(raw) // 8 * 8].view(torch.int64)
    square = words[: len(words) // WORDS * WORDS].view(-1, WORDS)
    hashed = blake2b(digest_size=16)
    sums = (square.sum(0), square.sum(1)) if len(square) else ()
    for part in (*sums, words[square.numel() :], raw[len(words) * 8 :]):
        hashed.update(part.cpu().numpy().data)
    return hashed.digest()
