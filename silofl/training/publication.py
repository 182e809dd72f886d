"""What of a model leaves its silo as `model.safetensors`: here it is decided, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.training.flat import FlatModel, as_array


def published(model: FlatModel, values: NDArray[np.floating]) -> dict[str, NDArray[Any]]:
    """The state dict by name with these shared values (d,), without anything of the silo's own.

    Published are views of the shared vector, frozen parameters, which are equal everywhere, and integer
    buffers as the untrained model has them: a silo's own counters would tell how much it trained. Private
    parameters and buffers are left out, and so is what is no tensor. bfloat16 is written as float32.
    """
    model.load(values)
    shared = model.vector.untyped_storage().data_ptr()
    frozen = {
        name
        for name, parameter in model.module.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in model.module.state_dict().items():
        if name in model.private_names or not isinstance(tensor, torch.Tensor):
            continue
        if name in model.untrained_counters:
            arrays[name] = model.untrained_counters[name].copy()
        elif name in frozen or tensor.untyped_storage().data_ptr() == shared:
            arrays[name] = as_array(tensor).copy()
    return arrays
