"""Clipped sums: a naive loop over single examples, bounds, what is not finite."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from silofl.errors import UserCodeError
from silofl.tasks import models
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.training import clipped
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.flat import FlatModel
from silofl.training.per_example import Clipping

CPU = torch.device("cpu")
MODES: list[Clipping] = ["ghost", "hooks", "functorch"]
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-10}


class Images(Classification):
    """Random images of 8 by 8 pixels, some dark and some bright, so that some gradients are clipped."""

    def __init__(self, build: Callable[[], nn.Module], count: int = 23) -> None:
        rng = torch.Generator().manual_seed(5)
        self.build, self.x = build, torch.randn(count, 1, 8, 8, generator=rng, dtype=torch.float64)
        self.x *= torch.logspace(-2, 1, count, dtype=torch.float64)[:, None, None, None]
        self.y = torch.randint(0, 5, (count,), generator=rng)

    def model(self) -> nn.Module:
        torch.manual_seed(3)
        return self.build()

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(self.x, self.y))


class Sequence(nn.Module):
    """Rows of the image as a sequence: linear layers on three dimensions, and norms of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.last = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.inner(x.flatten(1, 2))).tanh().mean(1))
        return out


class Contrast(nn.Module):
    """What neighbouring places have in common cancels in the gradient; places have two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        places: Tensor = self.inner(x.reshape(len(x), 8, 4, 2))
        return places[:, :, ::2].sum(dim=(1, 2)) - places[:, :, 1::2].sum(dim=(1, 2))


class Shifted(nn.Module):
    """A parameter of the root, above layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.inner = nn.Parameter(torch.zeros(64)), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.flatten(1) + self.shift)
        return out


class Positions(nn.Module):
    """An embedding of positions that are common to all examples, as in BERT and GPT-2; not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.last = nn.Embedding(16, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(1, 2) + self.places(torch.arange(16)[None, ::2])
        out: Tensor = self.last(rows.tanh().mean(1))
        return out


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 2, groups=2),
        nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: models.linear(64, 5),
    "mlp": lambda: models.mlp(64, (16, 8), 5),
    "cnn": lambda: models.cnn(1, 8, 8, 5),
    "grouped": grouped,
    "sequence": Sequence,
    "contrast": Contrast,
    "shifted": Shifted,
    "positions": Positions,
}


@contextmanager
def sums(
    task: Any, mode: Clipping, dtype: torch.dtype = torch.float64, clip_norm: float = 1.0, **options: Any
) -> Iterator[tuple[ClippedGradients, FlatModel]]:
    model = FlatModel(task.model(), dtype, CPU)
    batches = Batches(task.data(0, 1).train, dtype, CPU)
    one = ClippedGradients(task, model, batches, clip_norm=clip_norm, clipping=mode, silo=2, **options)
    yield one, model
    one.close()


def single(task: Any, model: FlatModel, i: int) -> tuple[Tensor, float]:
    """One example's gradient by autograd, and its loss."""
    x, y = task.x[i : i + 1].to(model.vector.dtype), task.y[i : i + 1]
    loss = functional.cross_entropy(model.module(x), y)
    gradients = torch.autograd.grad(loss, list(model.module.parameters()))
    return torch.cat([g.reshape(-1) for g in gradients]), loss.item()


def naive(task: Any, model: FlatModel, indices: Any, clip_norm: float = 1.0) -> Tensor:
    total = torch.zeros_like(model.vector)
    for i in indices:
        gradient = single(task, model, int(i))[0]
        norm = gradient.norm()
        if norm.isfinite():
            total += gradient * (clip_norm / norm).clamp(max=1.0)
    return total


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ragged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipped, "PHYSICAL", dict.fromkeys(MODES, 4))


@pytest.mark.covering(1)
@pytest.mark.usefixtures("ragged")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BUILDS)
def test_the_sum_is_that_of_a_loop_over_examples(name: str, mode: Clipping, dtype: torch.dtype) -> None:
    task = Images(BUILDS[name])
    indices = np.array([3, 0, 22, 17, 8, 9, 10, 21, 3])
    fresh = FlatModel(task.model(), dtype, CPU)
    norms = [float(single(task, fresh, i)[0].norm()) for i in indices]
    bound = 1.001 * float(np.median(norms))
    with sums(task, mode, dtype, bound) as (one, model):
        found, told = one.sum(indices)
        expected = naive(task, model, indices, bound)
        losses = [single(task, model, i)[1] for i in indices]
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert told.clipped == pytest.approx(np.mean([norm > bound for norm in norms]))
    assert 0 < told.clipped < 1
    assert told.loss == pytest.approx(np.mean(losses), rel=1e-4)
    assert (told.examples, told.refused) == (9, 0)


@pytest.mark.covering(0)
@pytest.mark.parametrize("mode", MODES)
def test_values_of_the_model_are_the_current_ones_and_out_is_overwritten(mode: Clipping) -> None:
    task = Images(BUILDS["mlp"])
    out = torch.full((FlatModel(task.model(), torch.float64, CPU).size,), torch.nan, dtype=torch.float64)
    with sums(task, mode) as (one, model):
        for turn in range(3):
            model.load(np.random.default_rng(turn).standard_normal(model.size) / 4)
            model.module.eval()
            found, _ = one.sum(np.arange(10), out)
            assert found is out
            torch.testing.assert_close(out, naive(task, model, range(10)), rtol=1e-10, atol=1e-12)
            assert all(p.grad is None for p in model.module.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_batch_is_zero(mode: Clipping) -> None:
    with sums(Images(BUILDS["cnn"]), mode) as (one, model):
        found, told = one.sum(np.empty(0, np.int64))
    assert torch.equal(found, torch.zeros_like(model.vector))
    assert (told.examples, told.loss, told.clipped, told.refused) == (0, 0.0, 0.0, 0)


@pytest.mark.covering(1)
@pytest.mark.usefixtures("ragged")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "sequence"])
@pytest.mark.parametrize("poison", [[2], [0, 1, 2, 3], range(12)])
def test_what_is_not_finite_adds_nothing(name: str, mode: Clipping, dtype: torch.dtype, poison: Any) -> None:
    task = Images(BUILDS[name], 12)
    for place, value in zip(poison, [np.nan, np.inf, -np.inf] * 4, strict=False):
        task.x[place, 0, place % 8, 3] = value
    with sums(task, mode, dtype) as (one, model):
        found, told = one.sum(np.arange(12))
        good = [i for i in range(12) if single(task, model, i)[0].norm().isfinite()]
        expected = naive(task, model, good)
    assert len(good) == 12 - len(poison)
    assert told.refused == 12 - len(good)
    assert np.isfinite(told.loss)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.covering(1)
@pytest.mark.parametrize("huge", [1e15, 1e25, 1e35, 1e38])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BUILDS)
def test_overflow_moves_the_sum_no_further_than_the_bound(name: str, mode: Clipping, huge: float) -> None:
    task = Images(BUILDS[name], 12)
    task.x[1, 0, ::2] *= huge
    task.x[5] = huge
    with sums(task, mode, torch.float32) as (one, model):
        found, told = one.sum(np.arange(12))
        expected = naive(task, model, [i for i in range(12) if i not in (1, 5)])
    assert np.isfinite(told.loss)
    assert float((found - expected).norm()) <= 2.001


@pytest.mark.covering(1)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clip_norm", [1e-3, 0.7, 50.0])
@pytest.mark.parametrize("name", ["mlp", "cnn", "sequence"])
def test_one_example_alone_is_within_the_bound(
    name: str, clip_norm: float, mode: Clipping, dtype: torch.dtype
) -> None:
    task = Images(BUILDS[name])
    task.x *= 30
    longest = 0.0
    with sums(task, mode, dtype, clip_norm) as (one, _):
        for i in range(23):
            longest = max(longest, float(one.sum(np.array([i]))[0].double().norm()))
    assert longest <= clip_norm  # not a rounding error more
    assert longest > 0.999 * clip_norm or clip_norm == 50.0


@pytest.mark.covering(1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("common", [1e2, 1e3, 1e4])
def test_what_cancels_in_a_norm_does_not_loosen_the_bound(
    common: float, dtype: torch.dtype, mode: Clipping
) -> None:
    task = Images(Contrast)
    task.x += common
    with sums(task, mode, dtype) as (one, _):
        one.sum(np.arange(23)[::-1].copy())  # bright ones first: dark ones' norms are mostly allowance
        norms = [float(one.sum(np.array([i]))[0].double().norm()) for i in range(23)]
    assert max(norms) <= 1


@pytest.mark.covering(1)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("clip_norm", [0.01, 1.0])
def test_neighbouring_datasets_are_as_near_as_promised(mode: Clipping, clip_norm: float) -> None:
    task = Images(BUILDS["cnn"])
    task.x[4] = torch.nan
    with sums(task, mode, clip_norm=clip_norm) as (one, _):
        whole = one.sum(np.arange(23))[0].clone()
        for i in range(23):
            without = one.sum(np.delete(np.arange(23), i))[0]
            assert float((whole - without).norm()) <= clip_norm * (1 + 1e-12)


@pytest.mark.covering(0)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_on_the_model(mode: Clipping) -> None:
    task = Images(BUILDS["cnn"])
    model = FlatModel(task.model(), torch.float64, CPU)
    untouched = copy.deepcopy(model.module)
    batches = Batches(task.data(0, 1).train, torch.float64, CPU)
    before = model.vector.clone()
    one = ClippedGradients(task, model, batches, clip_norm=1.0, clipping=mode, silo=0)
    one.sum(np.arange(9))
    with torch.no_grad():
        assert torch.equal(model.module(task.x), untouched(task.x))
    one.close()
    assert torch.equal(model.vector, before)
    assert model.vector.data_ptr() == next(model.module.parameters()).data_ptr()
    for layer, plain in zip(model.module.modules(), untouched.modules(), strict=True):
        assert vars(layer).keys() == vars(plain).keys()
        assert not layer._forward_hooks
        assert not layer._backward_hooks
    assert all(not vars(p) for p in model.module.parameters())
    ClippedGradients(task, model, batches, clip_norm=1.0, clipping="hooks", silo=0).close()


@pytest.mark.covering(0)
@pytest.mark.parametrize("mode", MODES)
def test_an_error_in_the_middle_leaves_no_trace_in_the_next_sum(mode: Clipping) -> None:
    task = Images(BUILDS["mlp"])
    with sums(task, mode) as (one, model):
        one.sum(np.arange(3))
        handle = model.module[3].register_forward_pre_hook(fail)
        with pytest.raises(UserCodeError, match="ZeroDivisionError"):
            one.sum(np.arange(7))
        handle.remove()
        found, _ = one.sum(np.arange(5))
        torch.testing.assert_close(found, naive(task, model, range(5)), rtol=1e-10, atol=1e-12)


@pytest.mark.covering(0)
@pytest.mark.parametrize("mode", MODES)
def test_an_error_going_backward_is_the_tasks_without_its_text(mode: Clipping) -> None:
    def fail_backward(*_: Any) -> None:
        raise ValueError("patient 4711")

    with sums(Images(BUILDS["mlp"]), mode) as (one, model):
        one.sum(np.arange(3))

        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            output.register_hook(fail_backward)

        model.module.register_forward_hook(hook)
        with pytest.raises(UserCodeError, match="ValueError") as caught:
            one.sum(np.arange(7))
        assert "4711" not in str(caught.value)


def fail(*_: Any) -> None:
    raise ZeroDivisionError
