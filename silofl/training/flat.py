"""A model whose shared state lies in one contiguous vector: updates are views, never copies."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.errors import DataError
from silofl.training.integrity import Integrity, Shared
from silofl.training.own_state import OwnState, as_array
from silofl.training.private_parameters import private_names
from silofl.training.slots import Slot, convert, is_counter, is_number, slots_of, tensors_of, ties
from silofl.training.unshareable import overlapping, refuse_not_finite, refuse_unshareable
from silofl.training.vector_layout import VectorLayout

__all__ = ["DTYPES", "Correct", "FlatModel", "as_array"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


Correct = Callable[[Tensor, Tensor], None]
"""Changes a step's gradient (P,) in place, at the parameters (P,) of the same type and device."""


class FlatModel:
    """A module and the vector that its shared tensors are views of.

    Shared are, in this order: parameters that require gradients, then the real and complex buffers of the
    state dict, such as BatchNorm's running statistics. Each silo's own are counters (integer buffers of one
    value), buffers with persistent=False, and parameters and buffers whose names match one of the `private`
    patterns (fnmatch), which are trained. Frozen parameters and all other integer buffers do not travel:
    they must be equal everywhere, which `fingerprint` covers, and stay as they are, which `check` sees to.
    P is the number of the parameters' shared values, b that of the buffers', as `VectorLayout` counts them.
    Names are those of the model that is not compiled. With `constant_buffers` no buffer travels: real and
    complex ones, such as tables of rotations, are held to be constants as integer ones are.

    Attributes:
        module: the model, on its device.
        vector: (d,) = (P + b,) of the model's dtype, on its device.
        trainable: P.
        trained: by name, the parameters, shared and private, that require gradients at the start.
        tensor_names: of the m shared parameters, in order.
        tensor_ends: int64 (m,), where each ends in the first P values.
        buffer_names: of the shared buffers, in order.
        buffer_ends: int64, where each ends in the last b values, counted from P.
        private_names: of the parameters and buffers that stay with the silo.
        untrained_counters: counters by name as the model was built: equal everywhere.

    Raises:
        DataError: no parameter to share, a tensor that cannot be, or patterns that cannot be followed.
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        private: Sequence[str] = (),
        *,
        constant_buffers: bool = False,
    ) -> None:
        self._constant_buffers = constant_buffers
        self.module, slots = module, slots_of(module)
        self.private_names = private_names({s.name: t for s, t in tensors_of(slots)}, private)
        refuse_unshareable(slots, dtype, self.private_names)
        constant = [s for s in slots if s.persistent and s.name not in self.private_names]
        meeting = {slot for pair in overlapping(constant) for slot in pair}
        convert(module, slots, dtype, device)
        first = tensors_of([group[0] for group in ties(slots)])
        self.trained = {s.name: t for s, t in first if s.is_parameter and t.requires_grad}
        shared = [(slot, t) for slot, t in first if self._travels(slot, t)]
        self._views = self._lay(
            [s for s in shared if s[0].is_parameter], [s for s in shared if not s[0].is_parameter]
        )
        self._watch(slots, dict(zip((id(t) for _, t in shared), self._views, strict=True)), meeting)
        self._loaded: tuple[NDArray[np.floating], ...] = ()

    def _travels(self, slot: Slot, tensor: Tensor) -> bool:
        if slot.name in self.private_names:
            return False
        if slot.is_parameter:
            return tensor.requires_grad
        return slot.persistent and is_number(tensor) and not self._constant_buffers

    def _lay(self, parameters: list[tuple[Slot, Tensor]], buffers: list[tuple[Slot, Tensor]]) -> list[Tensor]:
        """Make the vector and let the shared tensors be views of it; those views."""
        if not parameters:
            raise DataError(
                "the task's private patterns match all parameters of its model; leave some to be shared"
                if self.trained
                else "the task's model has no parameter that requires a gradient; nothing to train"
            )
        for slot, parameter in parameters:
            refuse_not_finite(slot, parameter)
        tensors, count = [t for _, t in (*parameters, *buffers)], len(parameters)
        self._layout, self._parameters = VectorLayout(tensors), tensors[:count]
        self.tensor_names, self.buffer_names = [s.name for s, _ in parameters], [s.name for s, _ in buffers]
        self.tensor_shapes = [tuple(shape) for shape in self._layout.shapes[:count]]
        ends = np.array(self._layout.ends, np.int64)
        self.trainable = int(ends[count - 1])
        self.tensor_ends, self.buffer_ends = ends[:count], ends[count:] - self.trainable
        self.vector = torch.zeros(int(ends[-1]), dtype=tensors[0].real.dtype, device=tensors[0].device)
        views = list(self._layout.cut(self.vector))
        for view, tensor in zip(views, tensors, strict=True):
            view.copy_(tensor.detach())
            tensor.data = view
        return views

    def _watch(self, slots: list[Slot], views: Mapping[int, Tensor], meeting: set[Slot]) -> None:
        """Tell apart what is the silo's own, and what has to stay as it is."""
        names = Counter(id(t) for _, t in tensors_of(slots))
        shared = [
            Shared(s, t, views[id(t)], names[id(t)] > 1) for s, t in tensors_of(slots) if id(t) in views
        ]
        rest = [
            (s, t) for s, t in tensors_of(slots) if id(t) not in views and s.name not in self.private_names
        ]
        frozen = [s for s, _ in rest if s.is_parameter]
        counters = [s for s, t in rest if is_counter(s, t)]
        caches = [s for s, _ in rest if not s.persistent]
        constants = [s for s, _ in rest if s not in {*frozen, *counters, *caches}]
        self._constants = [*frozen, *constants]
        self._integrity = Integrity(self.module, shared, frozen, constants, caches, meeting)
        private = [(s, t) for s, t in tensors_of(slots) if s.name in self.private_names]
        own = [*counters, *(s for s, t in private if not is_number(t))]
        floats = [s for s, t in private if is_number(t)]
        self._own = OwnState(own, floats, caches, self._integrity.changed_caches)
        self.untrained_counters = self._own.counters()
        self.digests = {s.name: _digest(t) for s, t in tensors_of([*frozen, *constants, *counters])}
        """SHA-256 (hex) by name of what does not travel and must be equal everywhere."""

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
        self.load_parts(values[: self.trainable], values[self.trainable :])

    def load_parts(self, parameters: NDArray[np.floating], buffers: NDArray[np.floating]) -> None:
        """Set the shared values from the parameters (P,) and the buffers (b,); else as `load`."""
        self._integrity.adopt(keep=False)
        self.vector[: self.trainable].copy_(torch.from_numpy(parameters))
        self.vector[self.trainable :].copy_(torch.from_numpy(buffers))
        self._integrity.loaded()
        self._loaded = parameters, buffers

    def reload(self) -> None:
        """Set the shared values again as they were last loaded."""
        if self._loaded:
            self.load_parts(*self._loaded)

    def to_change(self) -> Tensor:
        """What training has changed of the values last loaded (d,), in their place; `reload` ends that."""
        parameters, buffers = self._loaded
        self.vector[: self.trainable].sub_(self.tensor(parameters))
        self.vector[self.trainable :].sub_(self.tensor(buffers))
        return self.vector

    def adopt(self) -> None:
        """Take into the vector what a forward pass put in the place of shared tensors."""
        self._integrity.adopt(keep=True)

    def check(self, *, own: bool = False, in_place: bool = False) -> None:
        """`adopt`, and refuse what local training may not change: see `Integrity`.

        Args:
            own: also refuse changed buffers that are the silo's own.
            in_place: refuse what `adopt` would mend.

        Raises:
            TrainingError: what was changed, and what to do.
        """
        self._integrity.adopt(keep=True, in_place=in_place)
        self._integrity.check(own=own)

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
        views = self._layout.cut(vector, len(self._parameters))
        for parameter, view in zip(self._parameters, views, strict=True):
            parameter.grad = view

    def shared(self) -> dict[str, Tensor]:
        """Views of the vector by name: parameters, then buffers."""
        return dict(zip([*self.tensor_names, *self.buffer_names], self._views, strict=True))

    @property
    def constants(self) -> dict[str, Tensor]:
        """By name, what does not travel and is equal everywhere, but for counters."""
        return {slot.name: tensor for slot, tensor in tensors_of(self._constants)}

    def own_state(self) -> dict[str, dict[str, NDArray[np.generic]]]:
        """All that is this silo's own: see `OwnState.state`."""
        return self._own.state()

    def load_own_state(self, state: Mapping[str, Mapping[str, NDArray[np.generic]]]) -> None:
        """Take up an earlier `own_state()`."""
        self._own.load(state)

    @property
    def shapes(self) -> list[list[Any]]:
        """Name and shape of each shared tensor, in order."""
        names = [*self.tensor_names, *self.buffer_names]
        return [[name, list(shape)] for name, shape in zip(names, self._layout.shapes, strict=True)]

    def fingerprint(self) -> str:
        """SHA-256 (hex) over names, shapes, dtype and what does not travel: equal where shared models are.

        Of the model as it was built. Private parameters may differ from silo to silo, in shape, too.
        """
        names = self.tensor_names + self.buffer_names
        shape = [names, self._layout.shapes, str(self.vector.dtype), self.trainable, self.digests]
        return hashlib.sha256(json.dumps(shape).encode()).hexdigest()

    def describe(self) -> str:
        """`MLP, 4810 values in 4 tensors`, and how many values stay with the silo: for messages."""
        own = self._own.values()
        kept = f", {own} more stay with each silo" if own else ""
        kind = type(getattr(self.module, "_orig_mod", self.module)).__name__
        return f"{kind}, {self.size} values in {len(self._views)} tensors{kept}"


def _digest(tensor: Tensor) -> str:
    """SHA-256 (hex) of type, shape and values."""
    values = tensor.detach().cpu().resolve_conj().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
