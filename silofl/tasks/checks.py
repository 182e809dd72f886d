"""What a task has to have, and what its `data` has to return: each slip is one sentence before round 1."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from silofl.errors import ConfigError, DataError
from silofl.tasks.base import DescribedTask, SiloData, Task
from silofl.tasks.owner_numbers import owners_of

METHODS = {"model": "()", "data": "(silo, silos)", "loss": "(model, batch)", "metrics": "(model, batch)"}
"""What every task has, with what it is called with."""
OPTIONAL = {
    **dict.fromkeys(("evaluate", "losses"), "(model, batch)"),
    "collate": "(samples)",
    "optimizers": "(model)",
    "fit": "(model, data, round)",
    "on_round": "(record)",
    "arrived": "(silo, round)",
}
"""What a task may have."""


def task_of(given: Any, name: str) -> Task:
    """`given` as a task; `name` is what messages call it.

    Raises ConfigError where it lacks a method, or has one that cannot be called as it will be.
    """
    if isinstance(getattr(given, "model", None), nn.Module):
        raise ConfigError(
            f"{name}: its model is a {type(given.model).__name__} and no method: let model() return a new one"
        )
    missing = [method for method in METHODS if not callable(getattr(given, method, None))]
    if missing:
        raise ConfigError(
            f"{name} is no task: it has no method {' or '.join(missing)}; a task has {', '.join(METHODS)}"
        )
    for method, arguments in {**METHODS, **OPTIONAL}.items():
        function = getattr(given, method, None)
        if callable(function) and not _takes(function, arguments):
            raise ConfigError(
                f"{name}: its {method} takes {inspect.signature(function)}{_begins(function)}, and is called "
                f"with {arguments}: change its parameters"
                + (f", or give the method another name than {method}" if method in OPTIONAL else "")
            )
    return cast(Task, given)


def _takes(function: Callable[..., Any], arguments: str) -> bool:
    """Whether the call fits; what has no signature, such as a method in C, is taken to."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*filter(None, arguments.strip("()").split(", ")))
    except TypeError:
        return False
    return True


def _begins(function: Callable[..., Any]) -> str:
    code = getattr(function, "__code__", None)
    return "" if code is None else f" ({Path(code.co_filename).name}:{code.co_firstlineno})"


def model_of(given: Any, silo: int) -> nn.Module:
    """`given` as what `Task.model` returns. Raises DataError where it is no module."""
    if isinstance(given, nn.Module):
        for name, one in given.named_modules():
            if isinstance(one, torch.jit.ScriptModule):
                raise DataError(
                    f"silo {silo}: {name or 'the model'} of the task is a {type(one).__name__} of torch.jit, "
                    "whose tensors cannot be put into one vector: return the module that it was made of, and "
                    "script or trace the trained one",
                    rank=silo,
                )
            if _exchanges(one):
                raise DataError(
                    f"silo {silo}: {name or 'the model'} of the task is a {type(one).__name__}, which tells "
                    "other processes gradients or parameters outside of the sum: return the module that it "
                    "was made of",
                    rank=silo,
                )
            if isinstance(one, nn.DataParallel):
                raise DataError(
                    f"silo {silo}: {name or 'the model'} of the task is a DataParallel, which takes all GPUs "
                    "that it sees, also those of other silos, and has names that no plain model loads: "
                    "return the module that it was made of",
                    rank=silo,
                )
        return given
    raise DataError(
        f"silo {silo}: the task's model() returned {_kind(given)}: return a new torch.nn.Module", rank=silo
    )


def _exchanges(module: nn.Module) -> bool:
    """Whether a module is one of torch's for parallel training by several processes."""
    return isinstance(module, nn.parallel.DistributedDataParallel) or any(
        kind.__module__.startswith(("torch.distributed.fsdp", "torch.distributed._composable"))
        for kind in type(module).__mro__
    )


def refuse_process_group(silo: int) -> None:
    """Raise DataError where a task's code has joined this process to others by torch.distributed.

    Launchers' variables, such as OMPI_COMM_WORLD_SIZE, are enough for some libraries to do so.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise DataError(
            f"silo {silo}: the task's code has set up torch.distributed with "
            f"{distributed.get_world_size()} processes, by which gradients or statistics can reach other "
            "silos outside of the sum: build the model without init_process_group, and without what calls "
            "it under mpirun, such as accelerate's Accelerator and the TrainingArguments of transformers",
            rank=silo,
        )


def data_of(given: Any, silo: int) -> SiloData:
    """`given` as what `Task.data` returns. Raises DataError where it is not two map-style data sets."""
    if not isinstance(given, (tuple, list)) or not 1 <= len(given) <= 2:
        many = f"{_kind(given)} of {len(given)}" if isinstance(given, (tuple, list)) else _kind(given)
        raise DataError(
            f"silo {silo}: the task's data(silo, silos) returned {many}: return two data sets, "
            "training samples and held-out samples, with None for the second where there are none",
            rank=silo,
        )
    data = SiloData(*given)
    for role, samples in (("training", data.train), ("held-out", data.test)):
        for why in _refusals(samples, optional=role == "held-out"):
            raise DataError(f"silo {silo}: the task's data() returned as {role} samples {why}", rank=silo)
    owners = given.owners if isinstance(given, SiloData) else None
    return SiloData(*data, owners_of(owners, len(data.train), silo))


def _refusals(samples: Any, *, optional: bool) -> Iterator[str]:
    """What is wrong with a data set, in the middle of a sentence."""
    kind = _kind(samples)
    if samples is None:
        if not optional:
            yield "None"
    elif isinstance(samples, DataLoader):
        yield (
            f"{kind}, and batches are made here (train.batch_size, train.eval_batch_size): return its "
            "data set, loader.dataset, and give the task a method collate(samples) for a collate_fn"
        )
    elif isinstance(samples, IterableDataset) or not hasattr(type(samples), "__getitem__"):
        yield f"{kind}, which cannot be indexed: return a map-style data set, with __len__ and __getitem__"
    elif not hasattr(type(samples), "__len__"):
        yield f"{kind}, which has no __len__: return a map-style data set, with __len__ and __getitem__"
    elif isinstance(samples, (str, bytes)):
        yield f"{kind}: return a data set, not its path"
    elif isinstance(samples, tuple) and any(isinstance(one, (torch.Tensor, np.ndarray)) for one in samples):
        yield (
            f"a tuple of {len(samples)} arrays, each of which would be one sample: return a "
            "torch.utils.data.TensorDataset of tensors"
        )
    elif hasattr(samples, "iloc"):
        yield (f"{kind}, which is indexed by columns: return a data set of its rows, such as a TensorDataset")


def _kind(given: Any) -> str:
    return "None" if given is None else f"a {type(given).__name__}"


def schema_of(task: Task) -> list[tuple[str, str]]:
    """Name and kind of each column. Raises ConfigError where the task's own method gives something else."""
    given: Any = task.schema() if isinstance(task, DescribedTask) else ()
    if not isinstance(given, (list, tuple)) or not all(_is_pair(pair) for pair in given):
        raise ConfigError(
            "the task's method schema must return pairs of text, the name and kind of each column, in a list"
        )
    return [(name, kind) for name, kind in given]


def _is_pair(pair: Any) -> bool:
    return isinstance(pair, (list, tuple)) and [type(text) for text in pair] == [str, str]
