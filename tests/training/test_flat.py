"""One contiguous vector: views, buffers, counters, types."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from silofl.errors import DataError
from silofl.training.flat import FlatModel
from silofl.training.publication import published

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_parameters_and_float_buffers_are_views_of_the_vector(dtype: torch.dtype) -> None:
    flat = FlatModel(network(), dtype, CPU)
    begin, end = (
        flat.vector.data_ptr(),
        flat.vector.data_ptr() + flat.vector.numel() * flat.vector.element_size(),
    )
    shared = [*flat.module.parameters(), *(b for b in flat.module.buffers() if b.is_floating_point())]
    assert all(begin <= t.data_ptr() < end for t in shared)
    assert flat.size == sum(t.numel() for t in shared) == 5 * 4 + 4 + 4 + 4 + 4 * 3 + 3 + 8
    assert flat.trainable == flat.size - 8


def test_training_writes_through_to_the_vector_and_statistics_too() -> None:
    flat = FlatModel(network(), torch.float64, CPU)
    before = flat.vector.clone()
    optimizer = torch.optim.SGD(flat.module.parameters(), lr=0.1)
    flat.module(torch.randn(16, 5, dtype=torch.float64)).square().sum().backward()
    optimizer.step()
    changed = flat.vector != before
    assert changed[: flat.trainable].any()
    assert changed[flat.trainable :].all()


def test_load_then_store_is_the_identity_and_counters_survive() -> None:
    flat = FlatModel(network(), torch.float32, CPU)
    flat.module(torch.randn(16, 5))
    flat.module(torch.randn(16, 5))
    values = np.random.default_rng(0).standard_normal(flat.size).astype(np.float32)
    flat.load(values)
    out = np.empty_like(values)
    flat.store(out)
    np.testing.assert_array_equal(out, values)
    assert flat.own_state()["counters"]["1.num_batches_tracked"] == 2
    assert flat.own_state()["counters"]["1.num_batches_tracked"].dtype == np.int64
    other = FlatModel(network(), torch.float32, CPU)
    other.load_own_state(flat.own_state())
    assert other.own_state()["counters"]["1.num_batches_tracked"] == 2


def test_export_names_everything_and_keeps_the_silos_counter_to_itself() -> None:
    flat = FlatModel(network(), torch.float32, CPU)
    flat.module(torch.randn(16, 5))
    values = np.arange(flat.size, dtype=np.float32)
    exported = published(flat, values)
    assert set(exported) == set(network().state_dict())
    assert exported["1.num_batches_tracked"] == 0
    np.testing.assert_array_equal(exported["0.weight"].ravel(), values[:20])


def test_tied_parameters_stay_tied_and_travel_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    flat = FlatModel(module, torch.float32, CPU)
    assert flat.size == 16
    assert flat.module[1].weight.data_ptr() == flat.module[0].weight.data_ptr() == flat.vector.data_ptr()


def test_frozen_parameters_do_not_travel_but_enter_the_fingerprint() -> None:
    def frozen(value: float) -> FlatModel:
        module = network()
        module[0].weight.requires_grad_(False)
        module[0].weight.data.fill_(value)
        return FlatModel(module, torch.float32, CPU)

    assert frozen(1.0).size == FlatModel(network(), torch.float32, CPU).size - 20
    assert frozen(1.0).fingerprint() == frozen(1.0).fingerprint() != frozen(2.0).fingerprint()


def test_bfloat16_travels_as_float32_and_float64_as_itself() -> None:
    assert FlatModel(network(), torch.bfloat16, CPU).wire_dtype == np.float32
    assert FlatModel(network(), torch.float64, CPU).wire_dtype == np.float64


def test_gradients_are_views_of_one_vector() -> None:
    flat = FlatModel(network(), torch.float64, CPU)
    gradient = flat.gradient_vector()
    flat.module(torch.randn(8, 5, dtype=torch.float64)).square().sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in flat.module.parameters()])  # type: ignore[union-attr]
    assert torch.equal(gradient[: flat.trainable], expected)
    assert gradient[flat.trainable :].eq(0).all()


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to train"):
        FlatModel(nn.ReLU(), torch.float32, CPU)
