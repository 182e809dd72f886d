"""What local training does to a model beside its steps: taken back where it can be, else refused by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silofl.errors import TrainingError
from silofl.training.flat import FlatModel
from silofl.training.own_state import as_array
from silofl.training.publication import published
from silofl.training.slots import checksum

CPU = torch.device("cpu")
X = torch.arange(24.0).view(6, 4) / 7


class Net(nn.Module):
    """A layer, and one tensor of every kind that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.frozen = nn.Linear(4, 3), nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("order", torch.arange(4).flip(0))
        self.register_buffer("ready", torch.tensor(False))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("later", None)


def flat(dtype: torch.dtype = torch.float32) -> Any:
    model = FlatModel(Net(), dtype, CPU)
    model.load(np.arange(model.size, dtype=model.wire_dtype))
    return model


def rebind_mean(net: Any) -> None:
    net.mean = 0.5 * net.mean + X.mean(0).to(net.mean.dtype)


def rebind_data(net: Any) -> None:
    net.layer.weight.data = net.layer.weight.data * 2


def move_and_back(net: Any) -> None:
    dtype = net.layer.weight.dtype
    net.layer.to(torch.float16).to(dtype)


def attached(net: Any) -> None:
    net.mean = net.mean + net.layer.weight.sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("change", [rebind_mean, rebind_data, move_and_back, attached])
def test_a_tensor_put_elsewhere_is_taken_back_with_its_values(
    change: Callable[[Any], None], dtype: torch.dtype
) -> None:
    model, plain = flat(dtype), flat(dtype).module
    change(model.module)
    change(plain)
    model.check()
    values = np.empty(model.size, model.wire_dtype)
    model.store(values)
    for name, array in published(model, values).items():
        np.testing.assert_array_equal(array, as_array(plain.state_dict()[name]), name)
    zeros = np.zeros_like(values)
    model.load(zeros)
    assert model.module.mean.eq(0).all()
    assert model.module.layer.weight.eq(0).all()


def test_what_is_put_elsewhere_while_evaluating_is_not_part_of_the_next_round() -> None:
    model = flat()
    model.module.mean = model.module.mean + 1
    values = np.arange(model.size, dtype=np.float32)
    assert published(model, values)["mean"].tolist() == values[-4:].tolist()
    model.check()
    assert model.module.mean.tolist() == values[-4:].tolist()


def replaced(net: Any) -> None:
    net.layer.bias = nn.Parameter(net.layer.bias.detach() * 1)


def other_type(net: Any) -> None:
    net.layer.half()


def other_shape(net: Any) -> None:
    net.mean = torch.zeros(5)


def removed(net: Any) -> None:
    net.mean = None


def added_buffer(net: Any) -> None:
    net.later = X.mean(0)


def added_parameter(net: Any) -> None:
    net.gain = nn.Parameter(torch.ones(4))


def unfrozen(net: Any) -> None:
    net.frozen.requires_grad_(True)


def written(net: Any) -> None:
    net.frozen.weight.mul_(0.9)


def written_unseen(net: Any) -> None:
    net.frozen.weight.data.mul_(0.9)


def frozen_elsewhere(net: Any) -> None:
    net.frozen.bias.data = net.frozen.bias.data + 1


def reordered(net: Any) -> None:
    net.order = torch.arange(4)


def flagged(net: Any) -> None:
    net.ready.fill_(True)


def flagged_by_a_byte(net: Any) -> None:
    net.initialized.fill_(1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (replaced, "replaced parameter layer.bias by another, which no optimizer has; write into it"),
        (other_type, "made parameter layer.weight float16 of shape (3, 4) on cpu, which was float32"),
        (other_shape, "made buffer mean float32 of shape (5,) on cpu, which was float32 of shape (4,)"),
        (removed, "removed buffer mean, which is shared"),
        (added_buffer, "added buffer later; register it in model()"),
        (added_parameter, "added parameter gain; register it in model()"),
        (unfrozen, "unfroze parameter frozen.weight; let it require a gradient in model()"),
        (written, "changed parameter frozen.weight, which requires no gradient and so is not shared"),
        (written_unseen, "changed parameter frozen.weight, which requires no gradient"),
        (frozen_elsewhere, "changed parameter frozen.bias, which requires no gradient"),
        (reordered, "changed buffer order, of which no mean can be made: register it with persistent=False"),
        (flagged, "changed buffer ready, of which no mean can be made"),
        (flagged_by_a_byte, "changed buffer initialized, of which no mean can be made"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_change_that_no_silo_would_hear_of_is_refused_by_name(
    change: Callable[[Any], None], told: str
) -> None:
    model = flat()
    model.check()
    with torch.no_grad():
        change(model.module)
    with pytest.raises(TrainingError, match=re.escape(f"local training {told}")):
        model.check()


def test_counters_and_caches_are_the_silos_own_and_survive_a_resume() -> None:
    model, other = flat(), flat()
    model.module.steps += 3
    model.module.cache = torch.full((5,), 2.0)
    model.check()
    state = model.own_state()
    assert state["counters"] == {"steps": 3}
    other.load_own_state(state)
    assert other.module.cache.tolist() == [2.0] * 5
    assert published(model, np.zeros(model.size, np.float32))["steps"] == 0
    with pytest.raises(TrainingError, match="changed buffer cache, which has no noise"):
        model.check(own=True)


def test_where_steps_have_noise_nothing_is_put_elsewhere() -> None:
    model = flat()
    model.check(own=True, in_place=True)
    rebind_data(model.module)
    with pytest.raises(TrainingError, match=r"put another tensor in the place of parameter layer\.weight"):
        model.check(own=True, in_place=True)


def test_freezing_takes_no_parameter_from_the_optimizer() -> None:
    model = flat()
    model.module.layer.weight.requires_grad_(False)
    model.check()
    assert list(model.trained) == ["layer.weight", "layer.bias"]


class Tied(nn.Module):
    """One buffer under two names; one moves it and the other reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.a, self.b = nn.Linear(4, 3), nn.Module(), nn.Module()
        one = torch.zeros(4)
        self.a.register_buffer("mean", one)
        self.b.register_buffer("mean", one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_buffer_with_two_names_stays_one(dtype: torch.dtype) -> None:
    module: Any = Tied()
    model = FlatModel(module, dtype, CPU)
    assert model.size == 15 + 4
    module.a.mean += 1
    assert module.b.mean.eq(1).all()
    module.b.mean = module.b.mean + 1
    with pytest.raises(TrainingError, match=r"replaced buffer b\.mean, which has another name as well"):
        model.check()


def test_constants_in_one_memory_stay_constants() -> None:
    module = nn.Linear(4, 3)
    table = torch.arange(8.0)
    module.register_buffer("table", table)
    module.register_buffer("part", table[2:5])
    model: Any = FlatModel(module, torch.float32, CPU)
    model.check()
    module.part += 1  # type: ignore[operator]
    with pytest.raises(TrainingError, match="changed buffer part, which lies in one memory with another"):
        model.check()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(7, 3),
        torch.randn(8, 4).t(),
        torch.randn(5).bfloat16(),
        torch.arange(11, dtype=torch.uint8),
        torch.arange(9) % 2 > 0,
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(4, dtype=torch.float64)[1:],
        torch.eye(4).to_sparse(),
        torch.tensor(2.5),
    ],
    ids=lambda t: f"{t.dtype}",
)
def test_a_checksum_follows_every_value(tensor: Tensor) -> None:
    before = checksum(tensor)
    assert checksum(tensor.clone()) == before
    dense = tensor.to_dense() if tensor.is_sparse else tensor.clone()
    flat_ = dense.reshape(-1)
    assert len(flat_) < 2 or checksum(flat_.roll(1)) != before
    flat_[-1] = not flat_[-1] if tensor.dtype == torch.bool else flat_[-1] + 1
    assert checksum(flat_) != before


@pytest.mark.parametrize("change", [Tensor.neg_, Tensor.abs_, lambda t: t.mul_(2), lambda t: t.add_(1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draw", [torch.randn, torch.zeros, lambda n, dtype: -torch.ones(n, dtype=dtype)])
@pytest.mark.parametrize("size", [2, 2 * 1021, 4 * 1021 + 3, 4096, 1 << 16])
def test_a_checksum_follows_what_changes_all_values(change: Any, dtype: Any, draw: Any, size: int) -> None:
    tensor = draw(size, dtype=dtype)
    before, sum_before = tensor.clone(), checksum(tensor)
    change(tensor)
    same_bits = torch.equal(before.view(torch.uint8), tensor.view(torch.uint8))
    assert (checksum(tensor) == sum_before) == same_bits


def test_a_checksum_follows_two_values_that_change_places() -> None:
    tensor = torch.randn(5000, dtype=torch.float64)
    before = checksum(tensor)
    for first, second in ((0, 1), (0, 1021), (1, 1022), (3, 4999), (4998, 4999)):
        tensor[[first, second]] = tensor[[second, first]]
        assert checksum(tensor) != before
        tensor[[first, second]] = tensor[[second, first]]
    assert checksum(tensor) == before
