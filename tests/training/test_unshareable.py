"""Tensors of every type and kind: what they are in the vector and the file, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silofl.errors import DataError
from silofl.training.batches import Batches
from silofl.training.flat import FlatModel
from silofl.training.publication import published
from silofl.training.trial import kept

CPU = torch.device("cpu")


def complex_net() -> Any:
    """An odd number of real values before a complex parameter, and before a complex buffer."""
    torch.manual_seed(0)
    module: Any = nn.Module()
    module.real = nn.Parameter(torch.randn(3))
    module.turn = nn.Parameter(torch.polar(torch.ones(2, 2), torch.randn(2, 2)))
    module.last = nn.Parameter(torch.randn(1))
    module.register_buffer("even", torch.randn(4))
    module.register_buffer("freqs", torch.polar(torch.ones(4), torch.arange(4.0)))
    module.still = nn.Parameter(torch.tensor([1 + 2j]), requires_grad=False)
    return module


def test_complex_tensors_are_views_of_the_vector_and_stay_complex() -> None:
    plain, model = complex_net(), FlatModel(complex_net(), torch.float32, CPU)
    assert model.tensor_ends.tolist() == [4, 12, 13]  # one more value before what begins at an even place
    assert model.buffer_ends.tolist() == [5, 13]
    assert model.size == 13 + 13
    values = np.empty(model.size, np.float32)
    model.store(values)
    arrays = published(model, values)
    assert set(arrays) == set(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy(), name)
        assert arrays[name].dtype == tensor.numpy().dtype
    model.load(2 * values)
    assert torch.equal(model.module.get_parameter("turn"), 2 * plain.turn)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_complex_parameters_take_the_steps_that_they_take_by_themselves(kind: str) -> None:
    plain, module = complex_net(), complex_net()
    model = FlatModel(module, torch.float32, CPU)
    gradient = model.gradient_vector()
    for one, parameters in ((plain, [plain.real, plain.turn, plain.last]), (module, model.trained.values())):
        optimizer = getattr(torch.optim, kind)(parameters, lr=0.1)
        loss = (one.turn * one.freqs[:2]).abs().square().sum() + (one.turn.real * one.real[:2]).sum()
        (loss + one.last.square().sum()).backward()
        optimizer.step()
    assert torch.equal(module.turn, plain.turn)
    assert torch.equal(torch.view_as_complex(gradient[4:12].view(2, 2, 2)), plain.turn.grad)
    model.check()


def test_complex_samples_are_of_the_models_type() -> None:
    data = torch.utils.data.TensorDataset(torch.ones(3, dtype=torch.complex128), torch.arange(3))
    batch = Batches(data, torch.float32, CPU).all()
    assert [t.dtype for t in batch] == [torch.complex64, torch.int64]


def test_a_backbone_of_half_precision_is_widened_without_loss() -> None:
    module = nn.Sequential(nn.Linear(4, 4).half().requires_grad_(False), nn.Linear(4, 2))
    kept = module[0].weight.clone()
    model = FlatModel(module, torch.float32, CPU)
    arrays = published(model, np.zeros(model.size, np.float32))
    np.testing.assert_array_equal(arrays["0.weight"], kept.float().numpy())


def with_buffer(tensor: Any, **more: Any) -> nn.Module:
    module = nn.Linear(4, 2)
    module.register_buffer("extra", tensor, **more)
    return module


def with_parameter(make: Callable[[nn.Linear], nn.Parameter]) -> nn.Module:
    module = nn.Linear(4, 2)
    module.extra = make(module)
    return module


def alias() -> nn.Module:
    module = nn.Linear(4, 2)
    module.register_buffer("extra", module.weight.data)
    return module


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))


def built_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(4, 2)


NOT_FINITE = torch.tensor([0.0, float("-inf")])
REFUSED = {
    "nested": (
        lambda: with_buffer(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
        "buffer extra .* is nested",
    ),
    "sparse": (lambda: with_buffer(torch.eye(4).to_sparse()), "buffer extra .* is sparse_coo"),
    "lazy": (lazy, r"parameter 0\.weight .* has no shape yet: call the model once on an example"),
    "meta": (lambda: nn.Linear(4, 2, device="meta"), "parameter weight .* is on the device meta"),
    "wide": (lambda: with_buffer(torch.tensor(1 / 3, dtype=torch.float64)), "buffer extra .* is float64 and"),
    "infinite": (lambda: with_parameter(lambda _: nn.Parameter(NOT_FINITE)), "extra .* begins with values"),
    "inference": (built_in_inference_mode, r"parameter weight .* under torch\.inference_mode"),
    "a buffer that is a parameter's memory": (
        alias,
        "the parameter weight and the buffer extra .* are two tensors in the same memory",
    ),
    "a frozen copy that is none": (
        lambda: with_parameter(lambda m: nn.Parameter(m.weight.detach(), requires_grad=False)),
        "parameter .* and the parameter .* are two tensors in the same memory",
    ),
    "a part": (
        lambda: with_parameter(lambda m: nn.Parameter(m.weight.data[:1])),
        "parameter .* and the parameter .* are two tensors in the same memory",
    ),
}


@pytest.mark.parametrize(("build", "told"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_shared_is_refused_by_name(build: Callable[[], nn.Module], told: str) -> None:
    with pytest.raises(DataError, match=told):
        FlatModel(build(), torch.float32, CPU)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_complex_tensors_are_refused_where_the_file_cannot_hold_them(dtype: torch.dtype) -> None:
    with pytest.raises(DataError, match=re.escape('set train.dtype = "float32"')):
        FlatModel(complex_net(), dtype, CPU)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(4).to_sparse(),
        torch.tensor(1 / 3, dtype=torch.float64),
        torch.polar(torch.ones(4), torch.arange(4.0)),
    ],
    ids=["sparse", "wide", "complex"],
)
def test_what_is_no_part_of_the_state_dict_may_be_anything(tensor: Any) -> None:
    module = with_buffer(tensor, persistent=False)
    model = FlatModel(module, torch.bfloat16, CPU)
    assert model.size == 10
    model.check(own=True)
    assert set(published(model, np.zeros(10, np.float32))) == {"weight", "bias"}


@pytest.mark.parametrize("split", [0, 1])
def test_parts_of_one_memory_that_do_not_meet_are_two_tensors(split: int) -> None:
    packed = torch.randn(4, 6)
    module: Any = nn.Module()
    for name, part in zip("abc", torch.tensor_split(packed, 2, dim=split), strict=False):
        setattr(module, name, nn.Parameter(part))
    model = FlatModel(module, torch.float32, CPU)
    assert model.size == 24
    assert torch.equal(torch.cat([module.a, module.b], dim=split), packed)


@pytest.mark.parametrize("persistent", [True, False])
def test_a_table_that_expand_made_has_memory_for_each_of_its_values(persistent: bool) -> None:
    """As positions of tokens for several axes: nothing can be put back into a tensor whose rows are one."""
    module = with_buffer(torch.arange(4).expand(3, -1), persistent=persistent)
    module.register_buffer("scale", torch.ones(1).expand(5))
    model = FlatModel(module, torch.float32, CPU)
    with kept(module):
        module.extra.add_(1)  # type: ignore[operator]
    assert torch.equal(module.extra, torch.arange(4).expand(3, -1))  # type: ignore[arg-type]
    model.load_own_state(model.own_state())
    model.check(own=True)
    assert published(model, np.ones(15, np.float32))["scale"].tolist() == [1.0] * 5


def test_exact_values_of_a_wide_type_are_kept() -> None:
    model = FlatModel(with_buffer(torch.full((2,), 0.5, dtype=torch.float64)), torch.float32, CPU)
    assert model.shared()["extra"].tolist() == [0.5, 0.5]
