"""A model whose shared state lies in one contiguous vector: updates are views, never copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.errors import DataError

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class FlatModel:
    """A module and the vector that its shared tensors are views of.

    Shared are, in this order: parameters that require gradients, then floating-point buffers such as
    BatchNorm's running statistics. Integer buffers (counters) stay each silo's own and are never averaged.
    Frozen parameters do not travel; they must be equal everywhere, which `fingerprint` covers.

    Attributes:
        module: the model, on its device.
        vector: (d,) of the model's dtype, on its device.
        trainable: how many leading values of `vector` are parameters; the rest are buffers.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        self.module = module.to(device=device, dtype=dtype)
        parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        buffers = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
        if not parameters:
            raise DataError("the task's model has no parameter that requires a gradient; nothing to train")
        if any(p.dtype != dtype for p in parameters.values()):
            raise DataError(
                f"the task's model has parameters that cannot be {dtype}; only real floats can be shared"
            )
        self._names = [*parameters, *buffers]
        self._shapes = [tuple(t.shape) for t in (*parameters.values(), *buffers.values())]
        self.trainable = sum(p.numel() for p in parameters.values())
        size = self.trainable + sum(b.numel() for b in buffers.values())
        self.vector = torch.empty(size, dtype=dtype, device=device)
        self._parameters = list(parameters.values())
        for view, parameter in zip(self._views(), parameters.values(), strict=False):
            view.copy_(parameter.detach())
            parameter.data = view
        self._adopt_buffers(buffers)
        self._untrained_counters = self.counters()

    def _views(self) -> Iterator[Tensor]:
        """The vector cut into tensors, in order."""
        offset = 0
        for shape in self._shapes:
            count = int(np.prod(shape))
            yield self.vector[offset : offset + count].view(shape)
            offset += count

    def _adopt_buffers(self, buffers: dict[str, Tensor]) -> None:
        views = list(self._views())[len(self._parameters) :]
        for (name, buffer), view in zip(buffers.items(), views, strict=True):
            view.copy_(buffer)
            owner, _, leaf = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[leaf] = view

    @property
    def size(self) -> int:
        """Number of shared values, d."""
        return self.vector.numel()

    @property
    def wire_dtype(self) -> np.dtype[np.floating]:
        """NumPy type in which updates travel: float64 for float64 models, float32 for all others."""
        return np.dtype(np.float64 if self.vector.dtype == torch.float64 else np.float32)

    def load(self, values: NDArray[np.floating]) -> None:
        """Set the shared values from a wire vector (d,); rounds to the model's dtype."""
        self.vector.copy_(torch.from_numpy(values))

    def store(self, values: NDArray[np.floating]) -> None:
        """Write the shared values into a wire vector (d,)."""
        torch.from_numpy(values).copy_(self.vector)

    def gradient_vector(self) -> Tensor:
        """A zeroed vector (d,) whose parts become the parameters' gradients; the buffers' part stays zero."""
        gradient = torch.zeros_like(self.vector)
        self.gradients_from(gradient)
        return gradient

    def gradients_from(self, vector: Tensor) -> None:
        """Let the parameters' gradients be views of `vector` (d,)."""
        offset = 0
        for parameter in self._parameters:
            parameter.grad = vector[offset : offset + parameter.numel()].view(parameter.shape)
            offset += parameter.numel()

    def counters(self) -> dict[str, NDArray[np.generic]]:
        """This silo's integer buffers by name (copies)."""
        return {name: b.cpu().numpy().copy() for name, b in self._integer_buffers()}

    def load_counters(self, values: dict[str, NDArray[np.generic]]) -> None:
        """Set the integer buffers again, after a resume."""
        for name, buffer in self._integer_buffers():
            buffer.copy_(torch.from_numpy(values[name]))

    def _integer_buffers(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, b) for name, b in self.module.named_buffers() if not b.is_floating_point())

    def export(self, values: NDArray[np.floating]) -> dict[str, NDArray[np.generic]]:
        """The whole state dict by name with these shared values (d,); bfloat16 is written as float32.

        Counters are those of the untrained model: a silo's own would tell how much it trained.
        """
        self.load(values)
        counters = self._untrained_counters
        state = self.module.state_dict()
        return {name: counters.get(name, as_array(tensor).copy()) for name, tensor in state.items()}

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, shapes, dtype and frozen values: equal where models are."""
        shape = [self._names, self._shapes, str(self.vector.dtype), self.trainable]
        digest = hashlib.sha256(json.dumps(shape).encode())
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode())
                digest.update(parameter.detach().to(torch.float64).cpu().numpy().tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        """`MLP, 4810 values in 4 tensors`: for messages."""
        return f"{type(self.module).__name__}, {self.size} values in {len(self._names)} tensors"


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor as an array: a view where it can be one; bfloat16, which NumPy lacks, becomes float32."""
    array: NDArray[Any] = (
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
    )
    return array
