"""What a task returns and how it is called: each slip is one sentence that says what to return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from silofl.errors import ConfigError, DataError
from silofl.tasks.base import SiloData
from silofl.tasks.checks import data_of, model_of, refuse_process_group, task_of

DATA = TensorDataset(torch.zeros(4, 2))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class NoLength:
    def __getitem__(self, index: int) -> Any:
        return index


class Frame:
    """Looks like a data frame: its items are columns."""

    iloc = None

    def __len__(self) -> int:
        return 3

    def __getitem__(self, column: str) -> Any:
        raise KeyError(column)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (DATA, "returned a TensorDataset: return two data sets"),
        (None, "returned None: return two data sets"),
        ((DATA, DATA, DATA), "returned a tuple of 3: return two data sets"),
        ({"train": DATA}, "returned a dict: return two data sets"),
        (torch.zeros(2, 3), "returned a Tensor: return two data sets"),
        ((None, DATA), "as training samples None"),
        (
            (DataLoader(DATA), DATA),
            r"as training samples a DataLoader, .* return its data set, loader.dataset",
        ),
        ((DATA, DataLoader(DATA)), "as held-out samples a DataLoader"),
        ((Stream(), None), "a Stream, which cannot be indexed: return a map-style data set"),
        ((iter([1]), None), "a list_iterator, which cannot be indexed"),
        ((NoLength(), None), "a NoLength, which has no __len__"),
        ((DATA, "test.csv"), "as held-out samples a str: return a data set, not its path"),
        ((Frame(), None), "a Frame, which is indexed by columns"),
        (
            ((torch.zeros(4, 2), torch.zeros(4)), None),
            "a tuple of 2 arrays, each of which would be one sample",
        ),
        (
            (DATA, (np.zeros((4, 2)), np.zeros((4, 2)))),
            "as held-out samples a tuple of 2 arrays, .*TensorDataset",
        ),
    ],
)
def test_what_is_no_pair_of_data_sets_is_refused(given: Any, told: str) -> None:
    with pytest.raises(DataError, match=f"^silo 2: the task's data.*{told}"):
        data_of(given, 2)


@pytest.mark.parametrize("given", [(DATA, DATA), [DATA, None], SiloData(DATA), (DATA,), ([1, 2], [3])])
def test_what_can_be_indexed_and_counted_is_taken(given: Any) -> None:
    assert data_of(given, 0).train is given[0]


def test_a_model_is_a_module_and_not_its_class() -> None:
    assert isinstance(model_of(nn.Linear(1, 1), 0), nn.Module)
    with pytest.raises(DataError, match=r"silo 1: the task's model\(\) returned a type"):
        model_of(nn.Linear, 1)


def test_a_scripted_model_is_refused_by_name() -> None:
    scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(
        DataError, match=r"silo 3: the model of the task is a RecursiveScriptModule of torch.jit"
    ):
        model_of(scripted, 3)
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(DataError, match=r"silo 3: 1 of the task is a TopLevelTracedModule of torch.jit"):
        model_of(nn.Sequential(nn.Linear(2, 2), traced), 3)


def test_a_model_that_takes_all_gpus_is_refused() -> None:
    for model in (nn.DataParallel(nn.Linear(2, 2)), nn.Sequential(nn.DataParallel(nn.Linear(2, 2)))):
        with pytest.raises(
            DataError, match="of the task is a DataParallel, which takes all GPUs that it sees"
        ):
            model_of(model, 3)


class Good:
    def model(self) -> Any: ...
    def data(self, silo: int, silos: int) -> Any: ...
    def loss(self, model: Any, batch: Any, scale: float = 1.0) -> Any: ...
    def metrics(self, *both: Any) -> Any: ...


class Trainer(Good):
    def evaluate(self, loader: Any) -> Any: ...


class Lonely(Good):
    def data(self, silo: int) -> Any: ...  # type: ignore[override]


class Eager(Good):
    def losses(self, model: Any, batch: Any, reduction: str) -> Any: ...


class Collating(Good):
    def collate(self) -> Any: ...


def test_methods_are_called_as_they_can_be() -> None:
    task = Good()
    assert task_of(task, "it") is task
    with pytest.raises(
        ConfigError, match="the task object is no task: it has no method model or data or loss"
    ):
        task_of(object(), "the task object")


def test_a_model_in_the_place_of_the_method_is_told() -> None:
    task = type("Ready", (Good,), {"model": nn.Linear(1, 1)})()
    with pytest.raises(ConfigError, match=r"it: its model is a Linear and no method: let model\(\) return"):
        task_of(task, "it")


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (
            Trainer(),
            r"its evaluate takes \(loader: .*test_task_checks.py:\d+\), and is called with "
            r"\(model, batch\): change its parameters, or give the method another name than evaluate",
        ),
        (Lonely(), r"its data takes \(silo: .* and is called with \(silo, silos\): change its parameters$"),
        (Eager(), "its losses takes .* another name than losses"),
        (Collating(), r"its collate takes \(\).*\(samples\)"),
    ],
)
def test_a_signature_that_does_not_fit_is_told_with_its_line(task: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        task_of(task, "it")


def test_a_model_that_exchanges_gradients_by_itself_is_refused() -> None:
    class Sharded(nn.Linear):
        """As `fully_shard` makes one."""

    Sharded.__module__ = "torch.distributed.fsdp._fully_shard._fully_shard"
    with pytest.raises(
        DataError, match=r"^silo 1: 0 of the task is a Sharded, which tells other processes grad"
    ):
        model_of(nn.Sequential(Sharded(2, 2)), 1)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
        refuse_process_group(1)  # of one process
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(
        DataError, match=r"^silo 1: the model of the task is a DistributedDataParallel, which"
    ):
        model_of(parallel, 1)


def test_a_task_that_joins_the_silos_by_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_process_group(0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    with pytest.raises(DataError, match=r"^silo 0: the task's code has set up torch.distributed with 4 proc"):
        refuse_process_group(0)
