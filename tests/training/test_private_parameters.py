"""Parameters that stay with their silo: in no vector, in its own state, and never published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from silofl.errors import DataError
from silofl.training.flat import FlatModel
from silofl.training.publication import published

CPU = torch.device("cpu")


class Personal(nn.Module):
    """A shared body and a head of its own, both with statistics and counters."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.fixed = nn.Linear(2, 2).requires_grad_(False)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(x))
        return out


def flat(private: Any = ("head.*",), classes: int = 3, dtype: Any = torch.float32) -> FlatModel:
    torch.manual_seed(0)
    return FlatModel(Personal(classes), dtype, CPU, private)


def test_shared_are_parameters_then_buffers_and_where_they_end_is_told() -> None:
    model = flat()
    assert model.tensor_names == ["body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias"]
    assert model.tensor_ends.tolist() == [20, 24, 28, 32]
    assert model.tensor_ends.dtype == np.int64
    assert model.trainable == 32
    assert model.buffer_names == ["body.1.running_mean", "body.1.running_var"]
    assert model.buffer_ends.tolist() == [4, 8]
    assert model.size == model.vector.numel() == 40
    for name, start, end in zip(
        model.tensor_names, [0, *model.tensor_ends], [*model.tensor_ends], strict=False
    ):
        assert torch.equal(model.module.get_parameter(name).reshape(-1), model.vector[start:end])
    everything = flat(())
    assert everything.size == 40 + 8 + 15 + 8
    assert everything.tensor_ends[-1] == everything.trainable == 32 + 8 + 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_own_state_is_all_that_a_global_model_does_not_set(dtype: Any) -> None:
    model, other = flat(dtype=dtype), flat(dtype=dtype)
    optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
    for _ in range(3):
        model.module(torch.randn(8, 5).to(dtype)).square().mean().backward()
        optimizer.step()
    values = np.empty(model.size, model.wire_dtype)
    model.store(values)
    state = model.own_state()
    assert set(state["private"]) == {
        *("head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"),
        *("head.0.running_mean", "head.0.running_var"),
    }
    assert {name: int(count) for name, count in state["counters"].items()} == {
        "body.1.num_batches_tracked": 3,
        "head.0.num_batches_tracked": 3,
    }
    other.load(values)
    other.load_own_state(state)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, other.module.state_dict()[name]), name


def test_published_is_what_is_shared_and_nothing_of_the_silos_own() -> None:
    model = flat()
    model.module(torch.randn(8, 5))
    values = np.arange(model.size, dtype=np.float32)
    arrays = published(model, values)
    body = {name for name in model.module.state_dict() if name.startswith("body.")}
    assert set(arrays) == body | {"fixed.weight", "fixed.bias"}
    assert arrays["body.1.num_batches_tracked"] == 0
    np.testing.assert_array_equal(arrays["body.1.running_var"], values[36:])
    assert not any(np.shares_memory(array, model.vector.numpy()) for array in arrays.values())


class Extra(nn.Linear):
    """A layer that puts more into its state than tensors that are shared."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self._register_state_dict_hook(lambda _, state, *__: state.update(noted=torch.ones(2), text="mine"))


def test_what_is_no_view_of_the_shared_vector_is_not_published() -> None:
    model = FlatModel(Extra(), torch.float32, CPU)
    assert {"noted", "text"} < set(model.module.state_dict())
    assert set(published(model, np.zeros(model.size, np.float32))) == {"weight", "bias"}


def test_modules_that_are_used_twice_are_published_under_both_names() -> None:
    norm = nn.BatchNorm1d(3)
    module = nn.Sequential(norm, nn.Linear(3, 3), norm)
    module[0].register_buffer("noise", torch.zeros(2))
    module.register_buffer("noise", module[0].noise)
    model = FlatModel(module, torch.float32, CPU)
    model.module(torch.randn(4, 3))
    values = np.arange(model.size, dtype=np.float32)
    arrays = published(model, values)
    assert set(arrays) == set(model.module.state_dict())
    assert arrays["0.num_batches_tracked"] == arrays["2.num_batches_tracked"] == 0
    np.testing.assert_array_equal(arrays["noise"], arrays["0.noise"])


def test_heads_may_differ_and_bodies_may_not() -> None:
    assert flat().fingerprint() == flat(classes=7).fingerprint()
    assert flat(()).fingerprint() != flat((), classes=7).fingerprint()
    assert flat().fingerprint() != flat(("head.1.*",)).fingerprint()
    one, other = flat(("head.*", "fixed.*")), Personal()  # another one's frozen part is random
    assert one.fingerprint() == FlatModel(other, torch.float32, CPU, ("head.*", "fixed.*")).fingerprint()
    assert flat().fingerprint() != FlatModel(other, torch.float32, CPU, ("head.*",)).fingerprint()
    assert "40 values in 6 tensors, 31 more stay with each silo" in flat().describe()


def test_gradients_of_private_parameters_are_their_own() -> None:
    model = flat()
    gradient = model.gradient_vector()
    model.module(torch.randn(8, 5)).square().sum().backward()
    expected = [model.module.get_parameter(name).grad for name in model.tensor_names]
    assert torch.equal(gradient[:32], torch.cat([g.reshape(-1) for g in expected if g is not None]))
    assert gradient[32:].eq(0).all()
    head: Any = model.module.get_parameter("head.1.weight").grad
    assert head.untyped_storage().data_ptr() != gradient.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("private", "told"),
    [
        (("haed.*",), "private pattern 'haed.*', of the task or of personal.layers, matches no parameter"),
        ("head.*", r"is the text 'head.*': make it a sequence, \('head.*',\)"),
        (("*",), "match all parameters"),
    ],
)
def test_patterns_that_cannot_be_followed_are_refused(private: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        flat(private)


def test_a_tensor_with_two_names_is_private_by_both_or_shared_by_both() -> None:
    def tied(private: Any) -> FlatModel:
        module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 1))
        module[1].weight = module[0].weight
        return FlatModel(module, torch.float32, CPU, private)

    assert tied(("[01].*",)).size == 5
    assert tied(("2.*",)).size == 16
    with pytest.raises(DataError, match=r"keeps 1\.weight private and shares 0\.weight"):
        tied(("1.*",))
