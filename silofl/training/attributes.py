"""State in attributes of a model and its task: no part of the state dict, and training may change it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.training.own_state import as_array
from silofl.training.slots import plain_name

Arrays = dict[str, NDArray[Any]]

LARGEST = 1 << 20
"""Values of one attribute, at most: larger tensors are samples and tables rather than state."""
_DEEPEST = 4
"""How often a subset of a data set may be one of a subset."""
_OF_MODULES = frozenset(vars(nn.Module()))
_SAMPLES, _VALUES = ("train.", "test."), ("tensor", "array")
"""Data sets, whose tensors and arrays are samples: a checkpoint has none of those."""
_NUMBERS = {"bool": bool, "int": int, "float": float}
_RANDOM = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@final
class Attributes:
    """Numbers, tensors, arrays and random generators that are attributes of modules or of a task.

    A running mean in `self.mean = ...`, a counter, or a generator of one's own is no part of a state dict.
    It stays with its silo, as all that is not registered does; it is kept here for what must not change it,
    such as a trial, and for a resume that goes on bit for bit. What lies deeper, as in a list, is not found.

    Args:
        module: the model, before it was trained.
        others: by name, what else belongs to the run: "task", and "train" and "test", data sets with what
            they are subsets of; their tensors and arrays are not kept.
    """

    def __init__(self, module: nn.Module, **others: object) -> None:
        self._module, self._others = module, others
        self._begun = self._all()

    def state(self) -> Arrays:
        """What is not as it was at the start, by kind and name: copies."""
        begun = self._begun
        return {key: value for key, value in self._all().items() if not _equal(value, begun.get(key))}

    def load(self, state: Arrays) -> None:
        """Take up an earlier `state()`: what it does not have becomes what it was at the start."""
        named = {_of(key) for key in state}
        begun = {key: value for key, value in self._begun.items() if _of(key) not in named}
        wanted, now = begun | state, self._all()
        tables = dict(self._owners())
        for key in now:
            if _of(key) not in {_of(one) for one in wanted}:
                tables[_owner(key)].pop(_leaf(key))
        for key, value in wanted.items():
            if not _equal(value, now.get(key)) and _owner(key) in tables:
                table, kind = tables[_owner(key)], key.partition(":")[0]
                table[_leaf(key)] = _decoded(kind, value, table.get(_leaf(key)))

    def moved(self) -> list[str]:
        """Names of the model's real and complex numbers and tensors that are others than at the start.

        Not of one that appeared, or has another shape, which is how what is computed once is cached.
        """
        floats = {
            key: value
            for key, value in self.state().items()
            if value.dtype.kind in "fc" and key.partition(":")[0] in ("float", "scalar", "tensor", "array")
        }
        return [
            _of(key).removeprefix("model.")
            for key, value in floats.items()
            if _of(key).startswith("model.") and key in self._begun and self._begun[key].shape == value.shape
        ]

    def note(self) -> None:
        """Count what has appeared since the start as there from now on, for `moved`."""
        for key, value in self._all().items():
            self._begun.setdefault(key, value)

    def _owners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, module in self._module.named_modules():
            yield plain_name(f"model.{path}." if path else "model."), vars(module)
        for name, one in self._others.items():
            prefix, table = f"{name}.", getattr(one, "__dict__", {})
            for _ in range(_DEEPEST):
                yield prefix, table
                prefix, table = f"{prefix}dataset.", getattr(table.get("dataset"), "__dict__", {})

    def _all(self) -> Arrays:
        found: Arrays = {}
        for prefix, table in self._owners():
            for name, value in table.items():
                if name not in _OF_MODULES or not prefix.startswith("model."):
                    kind, array = _encoded(value)
                    if array is not None and not (kind in _VALUES and prefix.startswith(_SAMPLES)):
                        found[f"{kind}:{prefix}{name}"] = array
        return found


def _of(key: str) -> str:
    """The name of an attribute without its kind."""
    return key.partition(":")[2]


def _owner(key: str) -> str:
    return f"{_of(key).rpartition('.')[0]}."


def _leaf(key: str) -> str:
    return key.rpartition(".")[2]


def _equal(one: NDArray[Any], other: NDArray[Any] | None) -> bool:
    return (
        other is not None
        and one.dtype == other.dtype
        and one.shape == other.shape
        and np.array_equal(_bytes(one), _bytes(other))
    )


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _encoded(value: Any) -> tuple[str, NDArray[Any] | None]:
    """The kind of an attribute, and a copy of it; None for what is not kept."""
    if value is None:
        return "none", np.zeros(0, np.uint8)
    if type(value).__name__ in _NUMBERS and type(value) in _NUMBERS.values():
        fits = not isinstance(value, int) or abs(value) < 2**63
        return type(value).__name__, np.array(value) if fits else None
    if isinstance(value, Tensor):
        return "tensor", _tensor(value)
    if isinstance(value, (np.ndarray, np.generic)):
        kept = value.dtype.kind in "biufc" and value.size <= LARGEST
        return "scalar" if isinstance(value, np.generic) else "array", np.array(value) if kept else None
    if isinstance(value, _RANDOM):
        return "random", _generator(value)
    return "", None


def _tensor(value: Tensor) -> NDArray[Any] | None:
    if value.layout != torch.strided or value.is_meta or value.numel() > LARGEST:
        return None
    try:
        return as_array(value.resolve_conj().resolve_neg()).copy()
    except (TypeError, RuntimeError):  # a type that NumPy does not have
        return None


def _generator(value: Any) -> NDArray[Any]:
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().copy()
    state: Any = (
        value.getstate()
        if isinstance(value, random.Random)
        else value.get_state(legacy=False)
        if isinstance(value, np.random.RandomState)
        else value.bit_generator.state
    )
    text = json.dumps(state, default=lambda array: array.tolist(), sort_keys=True)
    return np.frombuffer(text.encode(), np.uint8).copy()


def _decoded(kind: str, value: NDArray[Any], now: Any) -> Any:
    """The attribute that `value` stands for: the one that is there now, where it can be changed."""
    if kind == "none":
        return None
    if kind in _NUMBERS:
        return _NUMBERS[kind](value[()])
    if kind == "scalar":
        return value[()]
    if kind == "array":
        return value.copy()
    if kind == "tensor":
        return _as_tensor(value, now)
    _seed(now, value)
    return now


def _as_tensor(value: NDArray[Any], now: Any) -> Tensor:
    made = torch.from_numpy(value.copy())
    if not isinstance(now, Tensor):
        return made
    if now.shape != made.shape or now.is_inference() or now.requires_grad:
        return made.to(now.device, now.dtype)
    with torch.no_grad():
        return now.copy_(made)


def _seed(generator: Any, value: NDArray[Any]) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.from_numpy(value.copy()))
        return
    state = json.loads(value.tobytes())
    if isinstance(generator, random.Random):
        version, words, gauss = state
        generator.setstate((version, tuple(words), gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
