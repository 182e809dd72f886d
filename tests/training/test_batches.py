"""Batches hold what torch's DataLoader would make of the same data set."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from silofl.errors import DataError, UserCodeError
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, spans

CPU = torch.device("cpu")
X, Y = torch.arange(12, dtype=torch.float32).view(6, 2), torch.arange(6)
Sample = collections.namedtuple("Sample", "x y")
Pair = collections.namedtuple("Pair", "left right")


class Scaled(TensorDataset):
    """A transform where users put one."""

    def __getitem__(self, index: Any) -> Any:
        x, y = super().__getitem__(index)
        return x / 100, y


class Mapped(Dataset[Any]):
    """Samples that a function makes of an index."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Bulk(Mapped):
    """Reads many at once, as data sets on disk do."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [(X[i] + 1000, Y[i]) for i in indices]


def flat(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    values = batch.values() if isinstance(batch, collections.abc.Mapping) else batch
    return [tensor for one in values for tensor in flat(one)]


@pytest.mark.parametrize(
    "samples",
    [
        TensorDataset(X, Y),
        Scaled(X, Y),
        Subset(Scaled(X, Y), [4, 1, 0, 2]),
        ConcatDataset([Scaled(X, Y), TensorDataset(X, Y)]),
        Bulk(lambda i: (X[i], Y[i])),
        Mapped(lambda i: Sample(X[i], Y[i])),
        Mapped(lambda i: {"pair": Pair(X[i], Sample(X[i], i)), "name": f"patient {i}"}),
        Mapped(lambda i: collections.OrderedDict(x=X[i].numpy(), y=i)),
        list(zip(X, Y, strict=True)),
    ],
    ids=["tensors", "subclass", "subset", "concat", "getitems", "named", "nested", "ordered", "list"],
)
def test_a_batch_is_what_a_data_loader_gives(samples: Any) -> None:
    expected = list(DataLoader(samples, batch_size=4))
    found = [batch for batch, _ in Batches(samples, torch.float32, CPU).in_order(4)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if not isinstance(samples, TensorDataset):
            assert type(one) is type(other)
        for a, b in zip(flat_tensors(one), flat_tensors(other), strict=True):
            assert torch.equal(a, b)


def flat_tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, dict):
        batch = [value for key, value in batch.items() if key != "name"]
    return flat(list(batch))


@dataclasses.dataclass(frozen=True)
class Graph:
    nodes: Tensor
    names: tuple[str, ...]


class Movable:
    """A batch of a library's own kind."""

    def __init__(self) -> None:
        self.moved: list[Any] = []

    def to(self, device: Any) -> Movable:
        self.moved.append(device)
        return self


def test_what_a_tasks_collate_makes_keeps_its_kind_and_takes_the_models_type() -> None:
    def placed(make: Any, device: torch.device = CPU) -> Any:
        batches = Batches(TensorDataset(X, Y), torch.float64, device, collate=make)
        return batches.take(torch.tensor([3, 1]))

    packed = placed(lambda samples: pack_sequence([x for x, _ in samples]), torch.device("meta"))
    assert isinstance(packed, PackedSequence)
    assert (packed.data.dtype, packed.data.device.type) == (torch.float64, "meta")
    assert packed.batch_sizes.device.type == "cpu"
    graph = placed(lambda samples: Graph(torch.stack([x for x, _ in samples]), ("a",)))
    assert (graph.nodes.dtype, graph.names) == (torch.float64, ("a",))
    assert placed(lambda samples: Movable()).moved == [CPU]
    mapping = placed(lambda samples: collections.UserDict(x=samples[0][0]))
    assert (type(mapping), mapping["x"].dtype) == (collections.UserDict, torch.float64)


def ragged(index: int) -> Any:
    return torch.arange(index + 1), 77000 + index


def test_ragged_samples_take_a_collate_and_the_refusal_says_so_without_a_value() -> None:
    code = UserCode(3)
    with pytest.raises(DataError, match=r"silo 3: torch makes no batch .*\(Tensor, int\).*collate") as caught:
        Batches(Mapped(ragged), torch.float32, CPU, code=code).take(torch.tensor([0, 4]))
    assert "77" not in str(caught.value)
    assert caught.value.__suppress_context__

    def pad(samples: list[Any]) -> Any:
        return torch.nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True)

    batches = Batches(Mapped(ragged), torch.float32, CPU, collate=pad, code=code)
    assert batches.take(torch.tensor([0, 4])).shape == (2, 5)


class Short(Bulk):
    """Leaves out what it cannot read."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return super().__getitems__(indices)[1:]


def test_a_sample_for_each_index() -> None:
    batches = Batches(Short(str), torch.float32, torch.device("cpu"), code=UserCode(2))
    with pytest.raises(DataError, match="silo 2: the task's data set gave 3 samples for 4 indices: let its"):
        batches.take(torch.arange(4))


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kind", ["inference", "graph"])
def test_samples_that_were_computed_can_be_trained_on_again_and_again(kind: str, listed: bool) -> None:
    weight = torch.ones(3, requires_grad=True)
    with torch.inference_mode(kind == "inference"):
        x = torch.ones(4, 3) * weight
    samples: Any = [(row,) for row in x] if listed else TensorDataset(x)
    batches, layer = Batches(samples, torch.float32, torch.device("cpu")), torch.nn.Linear(3, 1)
    for batch in (batches.all(), batches.all(), batches.take(torch.arange(2))):
        layer(batch[0]).sum().backward()
    assert weight.grad is None
    with torch.inference_mode():
        collated = Batches(
            [1, 2], torch.float32, torch.device("cpu"), collate=lambda s: torch.ones(2, 3)
        ).all()
    assert collated.shape == (2, 3)


def test_a_data_set_has_as_many_samples_as_it_said_first() -> None:
    class Shrinking(Mapped):
        said = 7

        def __len__(self) -> int:
            self.said -= 1
            return self.said

    batches = Batches(Shrinking(lambda i: X[i]), torch.float32, CPU)
    assert [len(batches), len(batches), batches.all().shape] == [6, 6, X.shape]


def test_sparse_samples_are_the_tasks_to_collate() -> None:
    data = TensorDataset(torch.eye(4).to_sparse())
    with pytest.raises(DataError, match="give the task a method collate"):
        Batches(data, torch.float32, torch.device("cpu")).all()
    dense = Batches(
        data, torch.float64, torch.device("cpu"), collate=lambda s: torch.stack([x.to_dense() for (x,) in s])
    )
    assert torch.equal(dense.all(), torch.eye(4, dtype=torch.float64))


def test_a_data_set_that_raises_is_named() -> None:
    records = {0: X[0]}
    with pytest.raises(
        UserCodeError, match=r"silo 2: the task's data\(\) raised KeyError at test_batches.py"
    ):
        Batches(Mapped(lambda i: records[i]), torch.float32, CPU, code=UserCode(2)).take(torch.tensor([5]))


@pytest.mark.parametrize(
    ("samples", "drop_last", "expected"),
    [
        (33, False, [16, 16, 1]),
        (33, True, [16, 16]),
        (32, True, [16, 16]),
        (31, True, [16]),
        (16, True, [16]),
        (5, True, [5]),
        (1, True, [1]),
    ],
)
def test_the_last_batch_can_be_left_out_and_the_only_one_cannot(
    samples: int, drop_last: bool, expected: list[int]
) -> None:
    assert [stop - start for start, stop in spans(samples, 16, drop_last=drop_last)] == expected
    batches = Batches(TensorDataset(torch.zeros(samples)), torch.float32, CPU)
    epoch = batches.shuffled(16, torch.Generator(), drop_last=drop_last)
    assert [len(batch[0]) for batch in epoch] == expected
