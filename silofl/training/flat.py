"""A model whose shared state lies in one contiguous vector: updates are views, never copies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.errors import DataError
from silofl.training.private_parameters import private_names

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


Correct = Callable[[Tensor, Tensor], None]
"""Changes a step's gradient (P,) in place, at the parameters (P,) of the same type and device."""


class FlatModel:
    """A module and the vector that its shared tensors are views of.

    Shared are, in this order: parameters that require gradients, then floating-point buffers such as
    BatchNorm's running statistics. Integer buffers (counters) stay each silo's own and are never averaged,
    and so do parameters and buffers whose names match one of the `private` patterns (fnmatch): they are
    trained, and lie in no vector. Frozen parameters do not travel; they must be equal everywhere, which
    `fingerprint` covers. P is the number of shared parameters, b that of values in shared buffers.

    Attributes:
        module: the model, on its device.
        vector: (d,) = (P + b,) of the model's dtype, on its device.
        trainable: P.
        tensor_names: of the m shared parameters, in order.
        tensor_ends: int64 (m,), where each ends in the first P values.
        buffer_names: of the shared buffers, in order.
        buffer_ends: int64, where each ends in the last b values, counted from P.
        private_names: of the parameters and buffers that stay with the silo.
        untrained_counters: integer buffers by name as the model was built: equal everywhere.

    Raises:
        DataError: no parameter to share, one that is no real float, or patterns that cannot be followed.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype, device: torch.device, private: Sequence[str] = ()
    ) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.private_names = private_names(self.module, private)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if any(p.dtype != dtype for p in trained.values()):
            raise DataError(
                f"the task's model has parameters that cannot be {dtype}; only real floats can be shared"
            )
        parameters = {name: p for name, p in trained.items() if name not in self.private_names}
        if not parameters:
            raise DataError(
                "the task's private patterns match all parameters of its model; leave some to be shared"
                if trained
                else "the task's model has no parameter that requires a gradient; nothing to train"
            )
        floats = {name: b for name, b in module.named_buffers() if b.is_floating_point()}
        buffers = {name: b for name, b in floats.items() if name not in self.private_names}
        self.tensor_names, self.buffer_names = list(parameters), list(buffers)
        self.tensor_ends, self.buffer_ends = _ends(parameters), _ends(buffers)
        self._shapes = [tuple(t.shape) for t in (*parameters.values(), *buffers.values())]
        self.trainable = int(self.tensor_ends[-1])
        size = self.trainable + sum(b.numel() for b in buffers.values())
        self.vector = torch.empty(size, dtype=dtype, device=device)
        self._parameters = list(parameters.values())
        for view, parameter in zip(self._views(), parameters.values(), strict=False):
            view.copy_(parameter.detach())
            parameter.data = view
        self._adopt_buffers(buffers)
        self._private = {
            name: t for name, t in (*trained.items(), *floats.items()) if name in self.private_names
        }
        self.untrained_counters = self._counters()

    def _views(self) -> Iterator[Tensor]:
        """The vector cut into tensors, in order."""
        offset = 0
        for shape in self._shapes:
            count = int(np.prod(shape))
            yield self.vector[offset : offset + count].view(shape)
            offset += count

    def _adopt_buffers(self, buffers: dict[str, Tensor]) -> None:
        """Put views of the vector in the place of buffers, under all names that each has."""
        named = list(self.module.named_buffers(remove_duplicate=False))
        views = {}
        for buffer, view in zip(buffers.values(), list(self._views())[len(self._parameters) :], strict=True):
            view.copy_(buffer)
            views[id(buffer)] = view
        for name, buffer in named:
            if id(buffer) in views:
                owner, _, leaf = name.rpartition(".")
                self.module.get_submodule(owner)._buffers[leaf] = views[id(buffer)]

    @property
    def size(self) -> int:
        """Number of shared values, d."""
        return self.vector.numel()

    @property
    def parameters(self) -> Tensor:
        """The first P values of the vector, a view."""
        return self.vector[: self.trainable]

    @property
    def wire_dtype(self) -> np.dtype[np.floating]:
        """NumPy type in which updates travel: float64 for float64 models, float32 for all others."""
        return np.dtype(np.float64 if self.vector.dtype == torch.float64 else np.float32)

    def load(self, values: NDArray[np.floating]) -> None:
        """Set the shared values from a wire vector (d,); rounds to the model's dtype."""
        self.vector.copy_(torch.from_numpy(values))

    def load_parts(self, parameters: NDArray[np.floating], buffers: NDArray[np.floating]) -> None:
        """Set the shared values from the parameters (P,) and the buffers (b,); else as `load`."""
        self.vector[: self.trainable].copy_(torch.from_numpy(parameters))
        self.vector[self.trainable :].copy_(torch.from_numpy(buffers))

    def store(self, values: NDArray[np.floating]) -> None:
        """Write the shared values into a wire vector (d,)."""
        torch.from_numpy(values).copy_(self.vector)

    def tensor(self, values: NDArray[np.floating]) -> Tensor:
        """An array as a tensor of the model's dtype on its device: a view where it can be one."""
        return torch.from_numpy(values).to(self.vector.device, self.vector.dtype)

    def gradient_vector(self) -> Tensor:
        """A zeroed vector (d,) whose parts become the shared parameters' gradients; that of buffers is 0."""
        gradient = torch.zeros_like(self.vector)
        self.gradients_from(gradient)
        return gradient

    def gradients_from(self, vector: Tensor) -> None:
        """Let the shared parameters' gradients be views of the first P values of `vector`."""
        offset = 0
        for parameter in self._parameters:
            parameter.grad = vector[offset : offset + parameter.numel()].view(parameter.shape)
            offset += parameter.numel()

    def own_state(self) -> dict[str, dict[str, NDArray[np.generic]]]:
        """All that is this silo's own: counters (copies), private parameters and buffers (views), by name."""
        private = {name: as_array(tensor) for name, tensor in self._private.items()}
        return {"counters": self._counters(), "private": private}

    def load_own_state(self, state: Mapping[str, Mapping[str, NDArray[np.generic]]]) -> None:
        """Take up an earlier `own_state()`."""
        with torch.no_grad():
            for name, buffer in self._integer_buffers():
                buffer.copy_(torch.from_numpy(state["counters"][name]))
            for name, tensor in self._private.items():
                tensor.copy_(torch.from_numpy(state["private"][name]))

    def _counters(self) -> dict[str, NDArray[np.generic]]:
        return {name: b.cpu().numpy().copy() for name, b in self._integer_buffers()}

    def _integer_buffers(self) -> Iterator[tuple[str, Tensor]]:
        named = self.module.named_buffers(remove_duplicate=False)
        return ((name, buffer) for name, buffer in named if not buffer.is_floating_point())

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, shapes, dtype and frozen values: equal where shared models are.

        Private parameters may differ from silo to silo, in shape, too.
        """
        shape = [self.tensor_names + self.buffer_names, self._shapes, str(self.vector.dtype), self.trainable]
        digest = hashlib.sha256(json.dumps(shape).encode())
        for name, parameter in self.module.named_parameters():
            if not parameter.requires_grad and name not in self.private_names:
                digest.update(name.encode())
                digest.update(parameter.detach().to(torch.float64).cpu().numpy().tobytes())
        return digest.hexdigest()

    def describe(self) -> str:
        """`MLP, 4810 values in 4 tensors`, and how many values stay with the silo: for messages."""
        own = sum(tensor.numel() for tensor in self._private.values())
        kept = f", {own} more stay with each silo" if own else ""
        tensors = len(self.tensor_names) + len(self.buffer_names)
        return f"{type(self.module).__name__}, {self.size} values in {tensors} tensors{kept}"


def _ends(tensors: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """Where each tensor ends when they lie one behind the other."""
    return np.cumsum([tensor.numel() for tensor in tensors.values()], dtype=np.int64)


def as_array(tensor: Tensor) -> NDArray[Any]:
    """The tensor as an array: a view where it can be one; bfloat16, which NumPy lacks, becomes float32."""
    array: NDArray[Any] = (
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().cpu().numpy()
    )
    return array
