"""Corrected gradients: when, of what, in which type, and that nothing changes without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl.config import TrainConfig
from silofl.tasks.base import SiloData
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedStats
from silofl.training.flat import Correct, FlatModel
from silofl.training.persons import Persons
from silofl.training.private import PrivateSteps
from silofl.training.trainer import LocalTrainer
from silofl_kernels import Stream

CPU = torch.device("cpu")


class Parts(nn.Module):
    """An embedding with sparse gradients, a frozen layer, one that takes no part, BatchNorm and a head."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 4, sparse=sparse)
        self.fixed, self.unused = nn.Linear(4, 4), nn.Linear(2, 2)
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.fixed.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.fixed(self.words(x).mean(1))))
        return out


class Words:
    """Classes of short sequences."""

    def __init__(self, *, sparse: bool = False) -> None:
        rng = torch.Generator().manual_seed(2)
        self.sparse = sparse
        self.x = torch.randint(0, 11, (14, 5), generator=rng)
        self.y = torch.randint(0, 3, (14,), generator=rng)

    def model(self) -> nn.Module:
        torch.manual_seed(1)
        return Parts(sparse=self.sparse)

    def data(self, silo: int, silos: int) -> SiloData:
        return SiloData(TensorDataset(self.x, self.y))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def train(
    correct: Correct | None,
    *,
    private: Any = (),
    sparse: bool = False,
    dtype: Any = torch.float64,
    **options: Any,
) -> FlatModel:
    task = Words(sparse=sparse)
    model = FlatModel(task.model(), dtype, CPU, private)
    batches = Batches(task.data(0, 1).train, dtype, CPU)
    LocalTrainer(task, model, batches, TrainConfig(**options), seed=0, silo=0).fit(1, correct)
    return model


def nothing(gradient: Tensor, values: Tensor) -> None:
    assert gradient.shape == values.shape


LENGTHS = [
    {"full_batch": True, "steps": 3},
    {"epochs": 2, "batch_size": 4},
    {"steps": 5, "batch_size": 4, "momentum": 0.9},
    {"epochs": 1, "batch_size": 5, "optimizer": "AdamW"},
    {"epochs": 1, "batch_size": 5, "precision": "bfloat16"},
    {"epochs": 1, "batch_size": 5, "precision": "float16"},
]


@pytest.mark.covering(1)
@pytest.mark.parametrize("options", LENGTHS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_correction_that_does_nothing_leaves_the_bits(options: dict[str, Any], dtype: Any) -> None:
    if dtype != torch.float32 and "precision" in options:
        pytest.skip("mixed precision is for models of single precision")
    # what takes no part has a gradient then, of zero, by which AdamW would let it decay
    options = options | ({"weight_decay": 0.0} if "optimizer" in options else {})
    plain, corrected = (train(one, dtype=dtype, **options) for one in (None, nothing))
    assert torch.equal(plain.vector, corrected.vector)


@pytest.mark.parametrize(("options", "steps"), list(zip(LENGTHS, (3, 8, 5), strict=False)), ids=str)
def test_it_is_called_before_every_step_with_views_of_the_model(options: dict[str, Any], steps: int) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def note(gradient: Tensor, values: Tensor) -> None:
        assert gradient.dtype == values.dtype == torch.float64
        seen.append((gradient.clone(), values.clone()))
        assert values.data_ptr() == values.untyped_storage().data_ptr()

    model = train(note, **options)
    assert len(seen) == steps
    assert all(gradient.shape == values.shape == (model.trainable,) for gradient, values in seen)
    assert not torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("sparse", [False, True])
def test_its_gradient_is_autograds_and_zero_of_what_takes_no_part(sparse: bool) -> None:
    """Plain descent by hand, with the same batches: full ones."""
    seen: list[Tensor] = []

    def pull(gradient: Tensor, values: Tensor) -> None:
        seen.append(gradient.clone())
        gradient += 0.3 * values

    lr, steps = 0.1, 4
    model = train(pull, sparse=sparse, full_batch=True, steps=steps, lr=lr)
    task = Words()
    module = task.model().double()
    parameters = [p for p in module.parameters() if p.requires_grad]
    for step in range(steps):
        gradients = torch.autograd.grad(
            task.loss(module, (task.x, task.y)), parameters, allow_unused=True, materialize_grads=True
        )
        whole = torch.cat([g.reshape(-1) for g in gradients])
        torch.testing.assert_close(seen[step], whole, rtol=1e-12, atol=1e-13)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(lr * (gradient + 0.3 * parameter))
    expected = torch.cat([p.detach().reshape(-1) for p in parameters])
    torch.testing.assert_close(model.parameters, expected, rtol=1e-12, atol=1e-13)
    first = model.tensor_names.index("unused.weight")
    unused = slice(int(model.tensor_ends[first - 1]), int(model.tensor_ends[first]))
    assert seen[0][unused].eq(0).all()
    assert "fixed.weight" not in model.tensor_names


def test_the_norm_is_bounded_before_the_correction() -> None:
    norms: list[float] = []

    def shift(gradient: Tensor, values: Tensor) -> None:
        norms.append(float(gradient.norm()))
        gradient += 1.0

    before = train(nothing, full_batch=True, clip_norm=1e-3, lr=1e-9).vector
    after = train(shift, full_batch=True, clip_norm=1e-3, lr=1.0)
    assert norms == [pytest.approx(1e-3, rel=1e-3)]
    moved = (after.vector - before)[: after.trainable]
    assert float(moved.mean()) == pytest.approx(-1.0, abs=1e-3)


def test_momentum_is_of_corrected_gradients() -> None:
    constant = torch.linspace(-1, 1, train(None, full_batch=True, lr=1e-9).trainable, dtype=torch.float64)

    def replace(gradient: Tensor, values: Tensor) -> None:
        gradient.copy_(constant)

    start = train(replace, full_batch=True, lr=1e-12).parameters.clone()
    end = train(replace, full_batch=True, steps=3, lr=0.1, momentum=0.5).parameters
    torch.testing.assert_close(start - end, 0.1 * (1 + 1.5 + 1.75) * constant, rtol=1e-6, atol=1e-9)


def test_private_parameters_are_trained_and_not_corrected() -> None:
    def freeze(gradient: Tensor, values: Tensor) -> None:
        gradient.zero_()

    model = train(freeze, private=("head.*",), full_batch=True, steps=3)
    begun = FlatModel(Words().model(), torch.float64, CPU, ("head.*",))
    assert model.trainable == 11 * 4 + 6 + 8
    assert torch.equal(model.parameters, begun.parameters)
    own, before = model.own_state()["private"], begun.own_state()["private"]
    assert set(own) == {"head.weight", "head.bias"}
    assert all(not np.array_equal(own[name], before[name]) for name in own)


class Ones:
    """Clipped sums of one for every parameter."""

    def sum(self, indices: Any, out: Tensor) -> tuple[Tensor, ClippedStats]:
        return out.fill_(1.0), ClippedStats(len(indices), 0.5, 0.0, 0)


class Louder:
    """Noise that is easily told."""

    def add(self, total: Tensor, divisor: float, streams: Any, place: Any) -> None:
        total += 100.0 + place[2]


class Streams:
    def stream(self, purpose: str, round_number: int, attempt: int, bound_to: bytes = b"") -> Stream:
        return Stream("aes-128-ctr", bytes(16))


def test_noisy_gradients_are_corrected_after_the_noise() -> None:
    seen: list[Tensor] = []

    def halve(gradient: Tensor, values: Tensor) -> None:
        assert values.shape == gradient.shape == (model.trainable,)
        seen.append(gradient.clone())
        gradient *= 0.5

    model = FlatModel(Words().model(), torch.float64, CPU)
    before = model.vector.clone()
    fakes: Any = (Ones(), Louder(), Streams())
    private = PrivateSteps(fakes[0], model, Persons(np.arange(14)), 0.5, fakes[2], b"data")
    optimizer = torch.optim.SGD([p for p in model.module.parameters() if p.requires_grad], lr=0.1)
    private.train(optimizer, 3, fakes[1], 1, 0, halve)
    assert [float(gradient[0]) for gradient in seen] == [101.0, 102.0, 103.0]
    moved = (before - model.vector)[: model.trainable]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1 * 0.5 * 306))
