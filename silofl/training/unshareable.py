"""Tensors that cannot be shared, or would not be what they are: refused before anything is trained."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

import torch
from torch import Tensor, nn

from silofl.errors import DataError
from silofl.training.slots import Slot, slots_of, tensors_of

_WIDE = {torch.float64, torch.complex128}


def refuse_unshareable(slots: Sequence[Slot], dtype: torch.dtype, private: Container[str]) -> None:
    """Raise the DataError of the first tensor of a model that `FlatModel` cannot take up in `dtype`.

    `private` are names of what stays with the silo, and need not be fit to travel.
    """
    for slot, tensor in tensors_of(slots):
        why = _no_values(tensor) or (None if slot.name in private else _unfit(slot, tensor, dtype))
        if why is not None:
            raise DataError(f"the {slot} of the task's model {why}")
    for one, other in overlapping(slots):
        if one.is_parameter or other.is_parameter:
            raise DataError(
                f"the {one} and the {other} of the task's model are two tensors in the same memory, which "
                "silos cannot keep together: register one tensor under both names, or a clone() of it"
            )


def _no_values(tensor: Tensor) -> str | None:
    if torch.nn.parameter.is_lazy(tensor):
        return "has no shape yet: call the model once on an example in model(), or give its layer all sizes"
    if tensor.is_meta:
        return "is on the device meta and has no values: build the model on a device that holds them"
    return None


def _unfit(slot: Slot, tensor: Tensor, dtype: torch.dtype) -> str | None:
    if not slot.persistent:
        return None
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        kind = "quantized" if tensor.is_quantized else kind
        return (
            f"is {kind}, and no mean of it can be made: make it dense, or register it with persistent=False"
        )
    if slot.is_parameter and tensor.is_inference():
        return "was made under torch.inference_mode() and cannot be trained: build the model without it"
    if tensor.is_complex() and dtype != torch.float32:
        return (
            f'is complex, and safetensors holds no complex numbers of {dtype}: set train.dtype = "float32", '
            "or keep its real and imaginary parts"
        )
    return _too_wide(tensor, dtype)


def _too_wide(tensor: Tensor, dtype: torch.dtype) -> str | None:
    """A type that is wider than what models are made of was chosen on purpose."""
    if tensor.dtype not in _WIDE or torch.float64 in (dtype, torch.get_default_dtype()):
        return None
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    if torch.equal(real.detach(), real.detach().to(dtype).to(real.dtype)):
        return None
    name = str(dtype).removeprefix("torch.")
    return (
        f'is {str(tensor.dtype).removeprefix("torch.")} and would be rounded to train.dtype = "{name}": set '
        f'train.dtype = "float64", or make it {name} in model()'
    )


def rounded_caches(module: nn.Module, dtype: torch.dtype) -> list[str]:
    """Names of buffers that are no part of the state dict and lose digits in a narrower `dtype`.

    Whoever loads the trained model builds them anew, in the type that the model chose.
    """
    if dtype != torch.bfloat16:
        return []
    caches = [(s, t) for s, t in tensors_of(slots_of(module)) if not s.persistent and t.is_floating_point()]
    return [s.name for s, t in caches if not (t.is_meta or torch.equal(t, t.to(dtype).to(t.dtype)))]


def refuse_not_finite(slot: Slot, tensor: Tensor) -> None:
    """Raise DataError for a trained parameter that no gradient makes finite again."""
    if not bool(tensor.detach().isfinite().all()):
        raise DataError(
            f"the {slot} of the task's model begins with values that are not finite: initialize it, "
            "and keep a constant such as a mask of -inf as a buffer"
        )


def overlapping(slots: Sequence[Slot]) -> Iterator[tuple[Slot, Slot]]:
    """Pairs of different tensors that have memory in common."""
    first: dict[int, tuple[Slot, Tensor]] = {}
    for slot, tensor in tensors_of(slots):
        if tensor.layout == torch.strided and not tensor.is_meta and tensor.numel():
            first.setdefault(id(tensor), (slot, tensor))
    groups: dict[int, list[tuple[Slot, Tensor]]] = {}
    for slot, tensor in first.values():
        groups.setdefault(tensor.untyped_storage().data_ptr(), []).append((slot, tensor))
    for group in groups.values():
        yield from _overlapping(sorted(group, key=lambda one: _span(one[1])))


def _overlapping(group: Sequence[tuple[Slot, Tensor]]) -> Iterator[tuple[Slot, Slot]]:
    """The same of one storage, of tensors in the order in which they begin."""
    before: list[tuple[Slot, Tensor]] = []
    for slot, tensor in group:
        before = [one for one in before if _span(one[1])[1] > _span(tensor)[0]]
        yield from ((other, slot) for other, found in before if _meet(found, tensor))
        before.append((slot, tensor))


def _meet(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one storage have an element in common."""
    if a.element_size() != b.element_size():
        return True
    index = torch.arange(max(_span(a)[1], _span(b)[1]) // a.element_size())
    cells = [index.as_strided(t.size(), t.stride(), t.storage_offset()).reshape(-1) for t in (a, b)]
    return bool(torch.isin(*cells).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first and the last byte in its storage, the latter exclusive."""
    last = sum(
        (int(size) - 1) * int(stride) for size, stride in zip(tensor.size(), tensor.stride(), strict=True)
    )
    begin = int(tensor.storage_offset()) * tensor.element_size()
    return begin, begin + (last + 1) * tensor.element_size()
