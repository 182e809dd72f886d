"""Which changes of a silo's samples its digest tells."""

import random
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from silofl.tasks.base import SiloData
from silofl.training.data_digest import SAMPLES, data_digest


def tensors(n=200, dtype=torch.float32):
    x = torch.arange(5 * n).reshape(n, 5)
    return TensorDataset((x + 1j if dtype.is_complex else x).to(dtype), torch.arange(n) % 3)


class Items(Dataset):
    """Anything, one item at a time; `change` may make another of each."""

    def __init__(self, n=100, change=lambda item, index: item):
        self.n, self.change, self.read = n, change, set()

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.add(index)
        item = {
            "x": np.full(3, index, np.float32),
            "y": index % 2,
            "id": f"case {index}",
            "more": (None, 1.5),
        }
        return self.change(item, index)


def digest(train, test=None, **more):
    return data_digest(SiloData(train, test), **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.complex64])
def test_any_value_of_small_tensors(dtype):
    same, other = tensors(dtype=dtype), tensors(dtype=dtype)
    assert digest(same) == digest(other)
    other.tensors[0][3, 3] += 1
    assert digest(same) != digest(other)


@pytest.mark.parametrize(
    "other",
    [
        (tensors(199), tensors(50)),  # number
        (tensors(200), tensors(51)),  # of held-out samples
        (tensors(200), None),
        (tensors(50), tensors(200)),  # one for the other
        (tensors(dtype=torch.int32), tensors(50)),  # type
        (TensorDataset(tensors().tensors[0].reshape(200, 1, 5), tensors().tensors[1]), tensors(50)),  # shape
        (TensorDataset(*(t.flip(0) for t in tensors().tensors)), tensors(50)),  # order
        (TensorDataset(tensors().tensors[0]), tensors(50)),
        (Subset(tensors(), range(200)), tensors(50)),  # read in another way
    ],
    ids=str,
)
def test_number_type_shape_and_order(other):
    assert digest(*other) != digest(tensors(), tensors(50))


def test_views_and_empty_tensors_are_read_as_what_they_hold():
    x = torch.arange(40.0).reshape(20, 2)
    assert digest(TensorDataset(x.T.contiguous().T)) == digest(TensorDataset(x))
    assert digest(TensorDataset(torch.zeros(0, 4))) != digest(TensorDataset(torch.zeros(0, 5)))


def test_of_large_tensors_spaced_rows_alone_are_read():
    same, other = tensors(), tensors()
    other.tensors[0][1] += 1
    assert digest(same, whole_bytes=400) == digest(other, whole_bytes=400)
    other.tensors[0][0] += 1
    assert digest(same, whole_bytes=400) != digest(other, whole_bytes=400)


@pytest.mark.parametrize(
    "change",
    [
        lambda item, index: item | {"x": item["x"] + 1},
        lambda item, index: item | {"x": item["x"].astype(np.float64)},
        lambda item, index: item | {"y": 1 - item["y"]},
        lambda item, index: item | {"y": float(item["y"])},
        lambda item, index: item | {"id": item["id"] + "."},
        lambda item, index: item | {"new": 0},
        lambda item, index: list(item.values()),
    ],
)
def test_items_of_other_data_sets(change):
    assert digest(Items()) == digest(Items())
    assert digest(Items(change=change)) != digest(Items())


def test_few_items_are_read():
    items = Items(10_000)
    digest(items)
    assert len(items.read) <= SAMPLES
    assert {0, 9_999} <= items.read


def noisy(item, index):
    return item | {"x": item["x"] + np.random.rand() + random.random() + torch.rand(1).item()}


def test_augmentation_is_no_change_and_generators_stay_as_they_were():
    def numbers():
        return [random.random(), np.random.rand(), torch.rand(1).item()]

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = numbers()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    first = digest(Items(change=noisy))
    assert numbers() == expected
    assert digest(Items(change=noisy)) == first
    own = np.random.default_rng()  # a generator that no seed reaches

    def changing(item, index):
        return item | {"x": own.normal(size=3)}

    assert digest(Items(change=changing)) == digest(Items(change=changing))
    assert digest(Items(change=changing)) != digest(Items(99, change=changing))


def test_items_that_cannot_be_read_are_left_to_their_reader():
    def broken(item, index):
        raise OSError("no such image")

    assert digest(Items(change=broken)) == digest(Items(change=broken))


def test_no_memory_is_taken_on_gpus_of_others(monkeypatch):
    """To put back the generators of all GPUs is to begin on each of them."""
    kept = []

    @contextmanager
    def fork_rng(devices=None):
        kept.append(devices)
        yield

    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    digest(Items())
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    digest(Items())
    assert kept == [[], [3]]
