"""State in attributes of a model and its task: no part of the state dict, and training may change it."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from silofl.errors import TrainingError
from silofl.training import generators
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
_WHOLE = (nn.Module, Tensor, type, FunctionType, MethodType, ModuleType, *generators.KINDS)
"""What is not looked into for parts."""
_DICT, _DOT, _MOST_KEYS = "[].", "\x1f", 1024
"""What ends the name of a dict's owner, what stands for a dot in a key, and how many keys there may be."""
_PARTS = 2
"""How deep objects are looked for in the attributes of a task and of a data set."""


@final
class Attributes:
    """Numbers, tensors, arrays and random generators that are attributes of modules or of a task.

    A running mean in `self.mean = ...`, a counter, or a generator of one's own is no part of a state dict.
    It stays with its silo, as all that is not registered does; it is kept here for what must not change it,
    such as a trial, and for a resume that goes on bit for bit. Of a task and a data set, objects that are
    attributes are looked into as well, for random generators alone, such as that of a collator. What is by
    name in a dict of the task or a module, such as means of weights, is found too; what lies elsewhere, as in
    a list, is not.

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
                present = table.get(_leaf(key))
                if not (kind == "none" and _is_part(_owner(key)) and _is_other(_leaf(key), present)):
                    table[_leaf(key)] = _decoded(kind, value, present)

    def remove(self, dead: Callable[[object], bool]) -> bool:
        """Take out attributes, and entries of lists, that are of no use; whether there were any."""
        found = False
        for _, table in list(self._owners()):
            for name, value in list(table.items()):
                if isinstance(value, list) and any(map(dead, value)):
                    value[:], found = [one for one in value if not dead(one)], True
                elif dead(value):
                    del table[name]
                    found = True
        return found

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
            _of(key).removeprefix("model.").replace(_DOT, ".")
            for key, value in floats.items()
            if _of(key).startswith("model.") and key in self._begun and self._begun[key].shape == value.shape
        ]

    def refuse_moved(self, silo: int) -> None:
        """Raise TrainingError, naming `silo`, where any has moved: it tells of samples, without noise."""
        moved = self.moved()
        if moved:
            raise TrainingError(
                f"silo {silo}: local training changed {moved[0]}, an attribute of the model which has no "
                "noise, and may not decide what a silo tells under [privacy]: do not change it in training",
                rank=silo,
            )

    def note(self) -> None:
        """Count what has appeared since the start as there from now on, for `moved`."""
        for key, value in self._all().items():
            self._begun.setdefault(key, value)

    def _owners(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for path, module in self._module.named_modules():
            prefix = plain_name(f"model.{path}." if path else "model.")
            yield prefix, vars(module)
            yield from _dicts(prefix, vars(module))
        for name, one in self._others.items():
            prefix, table = f"{name}.", getattr(one, "__dict__", {})
            if not prefix.startswith(_SAMPLES):
                yield from _dicts(prefix, table)
            for _ in range(_DEEPEST):
                yield prefix, table
                yield from _parts(prefix, table, _PARTS)
                prefix, table = f"{prefix}dataset.", getattr(table.get("dataset"), "__dict__", {})

    def _all(self) -> Arrays:
        found: Arrays = {}
        for prefix, table in self._owners():
            for name, value in table.items():
                if name not in _OF_MODULES or not prefix.startswith("model.") or prefix.endswith(_DICT):
                    kind, array = _encoded(value)
                    if kind == "int" and _is_process(name, value):
                        kind, array = "pid", np.zeros(0, np.uint8)  # which a resumed process has another of
                    if array is not None and kind not in _left_out(prefix):
                        found[f"{kind}:{prefix}{name.replace('.', _DOT)}"] = array
        return found


def _dicts(prefix: str, table: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dicts among attributes whose keys are names and that are no larger than an attribute may be."""
    for name, value in list(table.items()):
        if (
            type(value) is dict
            and len(value) <= _MOST_KEYS
            and not (prefix[:6] == "model." and name in _OF_MODULES)
        ):
            sizes = [
                getattr(one, "size", 0) if isinstance(one, np.ndarray) else one.numel()
                for one in value.values()
                if isinstance(one, (Tensor, np.ndarray))
            ]
            if all(type(key) is str for key in value) and sum(sizes) <= LARGEST:
                yield f"{prefix}{name}{_DICT}", value


def _parts(prefix: str, table: dict[str, Any], depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and attributes of the objects that an object has; not of modules, whose state is a model's."""
    for name, value in list(table.items()) if depth else ():
        if name != "dataset" and not isinstance(value, _WHOLE) and hasattr(value, "__dict__"):
            yield f"{prefix}{name}.", vars(value)
            yield from _parts(f"{prefix}{name}.", vars(value), depth - 1)


def _is_part(prefix: str) -> bool:
    """Whether it is of an object in an attribute, not of a model, task or data set itself."""
    first, *others = prefix.removesuffix(_DICT).rstrip(".").split(".")
    others = others[:-1] if prefix.endswith(_DICT) else others
    return first != "model" and any(name != "dataset" or first == "task" for name in others)


def _left_out(prefix: str) -> Container[str]:
    """Kinds of attributes that are not kept there: numbers of a part may belong to what is not kept."""
    if _is_part(prefix):
        return {*_VALUES, *_NUMBERS, "scalar"}
    return _VALUES if prefix.startswith(_SAMPLES) else ()


def _is_process(name: str, value: Any) -> bool:
    """Whether an attribute is the number of this process, by which libraries know a worker of theirs."""
    return name.endswith("pid") and value == os.getpid()


def _is_other(name: str, value: Any) -> bool:
    """Whether an attribute of a part is not of the kinds that are kept there."""
    return not (isinstance(value, generators.KINDS) or _is_process(name, value))


def _of(key: str) -> str:
    """The name of an attribute without its kind."""
    return key.partition(":")[2]


def _owner(key: str) -> str:
    return f"{_of(key).rpartition('.')[0]}."


def _leaf(key: str) -> str:
    return key.rpartition(".")[2].replace(_DOT, ".")


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
    if isinstance(value, generators.KINDS):
        return "random", generators.encoded(value)
    return "", None


def _tensor(value: Tensor) -> NDArray[Any] | None:
    if value.layout != torch.strided or value.is_meta or value.numel() > LARGEST:
        return None
    try:
        return as_array(value.resolve_conj().resolve_neg()).copy()
    except (TypeError, RuntimeError):  # a type that NumPy does not have
        return None


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
    return generators.decoded(value, now) if kind == "random" else os.getpid()


def _as_tensor(value: NDArray[Any], now: Any) -> Tensor:
    made = torch.from_numpy(value.copy())
    if not isinstance(now, Tensor):
        return made
    if now.shape != made.shape or now.is_inference() or now.requires_grad:
        return made.to(now.device, now.dtype)
    with torch.no_grad():
        return now.copy_(made)
