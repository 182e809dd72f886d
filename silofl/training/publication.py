"""What of a model leaves its silo as `model.safetensors`: here it is decided, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.errors import DataError
from silofl.tasks import lora
from silofl.training.flat import FlatModel, as_array
from silofl.training.slots import plain_name
from silofl.training.unregistered import unregistered_parameters


def published(model: FlatModel, values: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """The state dict by name with these shared values (d,), without anything of the silo's own.

    Published are views of the shared vector, frozen parameters and constant buffers, which are equal
    everywhere, and counters as the untrained model has them: a silo's own would tell how much it trained.
    Private parameters and buffers are left out, and so is what is no tensor. bfloat16 is written as float32.
    Names are those of the model that is not compiled.
    """
    model.load(values)
    return {
        name: model.untrained_counters[name].copy()
        if name in model.untrained_counters
        else as_array(tensor).copy()
        for name, tensor in _publishable(model).items()
    }


def whole(model: FlatModel) -> dict[str, NDArray[Any]]:
    """All tensors of the state dict by name, the silo's own as well, for the silo alone; copies."""
    state = {plain_name(name): tensor for name, tensor in model.module.state_dict().items()}
    return {
        name: as_array(tensor.detach().to_dense() if tensor.layout != torch.strided else tensor).copy()
        for name, tensor in state.items()
        if isinstance(tensor, torch.Tensor)
    }


def refuse_unpublishable(model: FlatModel) -> None:
    """Raise DataError where `published` would leave out what is shared, or no reader could read it."""
    found = _publishable(model)
    if "__metadata__" in found:
        raise DataError(
            "the task's model has a tensor by the name __metadata__, which safetensors keeps for itself: "
            "give it another name"
        )
    there = {tensor.data_ptr() for tensor in found.values()}
    for name, view in model.shared().items():
        if view.numel() and view.data_ptr() not in there:
            raise DataError(
                f"the state_dict() of the task's model leaves out {name}, which is shared, or copies it: let "
                "it have every parameter that is trained, or let the task's attribute private match its name"
            )


def notices(model: FlatModel, moved: list[str], rounded: list[str]) -> list[str]:
    """What of a model is not as a user may think.

    `moved` names attributes that training changes, `rounded` tensors outside the state dict that the type of
    its values has changed.
    """
    found = [
        f"{name} of the model is neither shared nor kept: model.safetensors lacks it, load it with "
        "strict=False"
        for name in left_out(model)[:1]
    ]
    found += [
        f"{name} of the model is a plain list or dict, whose parameters are neither trained nor shared: "
        "make it an nn.ParameterList, nn.ModuleList or a dict of these kinds"
        for name in unregistered_parameters(model.module)[:1]
    ]
    found += [
        f"train.dtype rounds {name} of the model, which is no part of the state dict, and who loads "
        'model.safetensors has it exactly: set train.dtype = "float32", and train.precision = "bfloat16"'
        for name in rounded[:1]
    ]
    found += lora.notices(model.tensor_names)
    return found + [
        f"training changes {name} of the model, an attribute that is no buffer: each silo has its own, "
        "and model.safetensors lacks it; register_buffer() would share it"
        for name in moved[:1]
    ]


def left_out(model: FlatModel) -> list[str]:
    """Names of the state dict that are not published, though they are not private: extra state."""
    kept, state = _publishable(model), model.module.state_dict()
    return [name for name in map(plain_name, state) if name not in kept and name not in model.private_names]


def _publishable(model: FlatModel) -> dict[str, Tensor]:
    """The tensors of the state dict that are published, by where they lie: names may be made up by hooks."""
    shared = model.vector.untyped_storage().data_ptr()
    constants = {tensor.data_ptr() for tensor in model.constants.values()}
    found: dict[str, Tensor] = {}
    for name, tensor in ((plain_name(name), t) for name, t in model.module.state_dict().items()):
        if name in model.private_names or not isinstance(tensor, torch.Tensor):
            continue
        if name in model.untrained_counters or tensor.layout != torch.strided or not tensor.numel():
            keep = name in model.untrained_counters or name in model.constants or name in model.shared()
        else:
            keep = tensor.data_ptr() in constants or tensor.untyped_storage().data_ptr() == shared
        if keep:
            found[name] = tensor
    return found
