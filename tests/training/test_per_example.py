"""Which models and tasks can be clipped example by example, and what is said of the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from silofl.errors import ConfigError
from silofl.tasks.base import PerExampleTask
from silofl.training.per_example import Clipping
from tests.campaigns import mostly_long
from tests.training.test_clipped import BUILDS, MODES, Images, naive, sums


class MeanOnly:
    """The same problem by a task that has the mean loss alone."""

    def __init__(self, task: Images) -> None:
        self.model, self.data, self.metrics = task.model, task.data, task.metrics

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])


@contextmanager
def refused(text: str) -> Iterator[None]:
    """The block ends in a ConfigError of silo 2 that says so."""
    with pytest.raises(ConfigError, match=text) as error:
        yield
    assert error.value.rank in (2, None)


def test_without_losses_ghost_is_refused_and_the_others_work() -> None:
    task = Images(BUILDS["mlp"])
    mean = MeanOnly(task)
    assert isinstance(task, PerExampleTask)
    assert not isinstance(mean, PerExampleTask)
    with refused(r"MeanOnly has no method losses.*privacy\.clipping = 'hooks'"), sums(mean, "ghost"):
        pass
    for mode in MODES[1:]:
        with sums(mean, mode) as (one, model):
            torch.testing.assert_close(one.sum(np.arange(9))[0], naive(task, model, range(9)))


class Tied(nn.Module):
    """A layer's weight once more, outside of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x.flatten(1)).tanh()
        out: Tensor = self.last(functional.linear(hidden, self.inner.weight.t()))
        return out


class Beside(nn.Module):
    """A layer whose own forward is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(64, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(functional.linear(x.flatten(1), self.inner.weight, self.inner.bias))
        return out


class Centred(nn.Module):
    """Examples meet in the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out: Tensor = self.inner(flat - 2 * flat.mean(0))
        return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [Tied, Centred])
def test_gradients_that_are_not_autograds_are_refused(build: Callable[[], nn.Module], mode: Clipping) -> None:
    task = Images(build)
    task.x[:3] = 1 + torch.arange(3.0)[:, None, None, None] * torch.rand(8, 8)
    with sums(task, mode) as (one, _), refused(r"silo 2.*autograd"):
        one.sum(np.arange(9))


@pytest.mark.parametrize(
    ("padding", "mode"),
    mostly_long(
        [(padding, mode) for padding in ("circular", "reflect", "replicate") for mode in MODES], 0, 4, 8
    ),
)
def test_padding_that_opacus_takes_for_zeros_is_refused(padding: str, mode: Clipping) -> None:
    """Whatever the first examples are: of those with dark margins its norms are right."""
    task = Images(lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode=padding), nn.Flatten(), nn.Linear(128, 5)))  # fmt: skip
    task.x[:8] = functional.pad(task.x[:8, :, 2:6, 2:6], (2, 2, 2, 2))
    if mode == "functorch":
        with sums(task, mode) as (one, model):
            torch.testing.assert_close(one.sum(np.arange(9))[0], naive(task, model, range(9)))
        return
    with refused(rf"silo 2.*layer 0 \(Conv2d\).*'{padding}'.*'functorch'"), sums(task, mode):
        pass


class Rewriting(nn.Module):
    """It changes a parameter by what it sees, as torch.nn.Embedding does with max_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.write(1e-6 * x.flatten(1).mean(0)[:5])
        out: Tensor = self.inner(x.flatten(1))
        return out

    def write(self, change: Tensor) -> None:
        self.inner.bias.data += change


class RewritingLater(Rewriting):
    """Only large batches make it."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = super().forward(x) if len(x) > 3 else self.inner(x.flatten(1))
        return out

    def write(self, change: Tensor) -> None:
        with torch.no_grad():
            self.inner.bias += change


class RewritingUnseen(RewritingLater):
    """By `data`, of which no version counter tells."""

    def write(self, change: Tensor) -> None:
        self.inner.bias.data += change


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("build", [Rewriting, RewritingLater, RewritingUnseen])
def test_models_that_write_to_their_parameters_are_refused(
    build: Callable[[], nn.Module], mode: Clipping
) -> None:
    with sums(Images(build), mode) as (one, _), refused(r"silo 2.*changes what it is made of in forward"):
        one.sum(np.arange(9))


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_is_called_without_the_batch_is_refused(mode: Clipping) -> None:
    class Bias(nn.Module):  # of pairs of places, as in T5: (8, 8), no batch
        def __init__(self) -> None:
            super().__init__()
            self.bias, self.last = nn.Embedding(8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            pairs = self.bias((torch.arange(8)[:, None] - torch.arange(8)).abs())[..., 0]
            out: Tensor = self.last((pairs @ x.flatten(1, 2)).mean(1))
            return out

    with (
        sums(Images(Bias), mode) as (one, _),
        refused(r"parameter bias\.weight was called with 8 rows for 3 ex"),
    ):
        one.sum(np.arange(5))


@pytest.mark.parametrize("mode", MODES)
def test_layers_that_nothing_follows_are_refused(mode: Clipping) -> None:
    with sums(Images(Beside), mode) as (one, _), refused(r"parameter inner\.weight"):
        one.sum(np.arange(9))


@pytest.mark.covering(0)
@pytest.mark.parametrize("mode", MODES)
def test_dropout_passes_and_draws_from_the_generator_as_it_was(mode: Clipping) -> None:
    build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.Dropout(0.5), nn.Linear(9, 5))  # noqa: E731
    with sums(Images(build), mode) as (one, _):
        torch.manual_seed(8)
        first = one.sum(np.arange(9))[0].clone()
        torch.manual_seed(8)
        assert torch.equal(one.sum(np.arange(9))[0], first)


class Normal(nn.Module):
    """A float buffer."""

    persistent = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)
        self.register_buffer("centre", torch.zeros(64), persistent=self.persistent)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.flatten(1) - self.get_buffer("centre"))
        return out


class Table(Normal):
    """One that is no part of the state dict, and so not shared."""

    persistent = False


class Turned(nn.Module):
    """A complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 5)
        self.turn = nn.Parameter(torch.ones(5, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.inner(x.flatten(1)) * self.turn).real
        return out


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"layer 1 \(BatchNorm2d\).*GroupNorm"),
        (lambda: nn.Sequential(nn.Linear(64, 5), nn.BatchNorm1d(5, track_running_stats=False)), "GroupNorm"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, track_running_stats=True)), "buffer"),
        (lambda: nn.Sequential(nn.LSTM(8, 4)), r"layer 0 \(LSTM\).*DPLSTM"),
        (lambda: nn.Sequential(nn.MultiheadAttention(8, 2)), "DPMultiheadAttention"),
        (lambda: nn.Sequential(nn.Linear(64, 5), nn.ReLU(inplace=True)), "inplace=False"),
        (
            lambda: nn.Sequential(nn.Embedding(9, 5, max_norm=1.0)),
            r"layer 0 \(Embedding\).*leave max_norm out",
        ),
        (Normal, r"\(the model\) \(Normal\).*buffer centre.*requires_grad=False"),
    ],
)
def test_models_that_cannot_be_clipped_are_refused(
    build: Callable[[], nn.Module], text: str, mode: Clipping
) -> None:
    with refused(rf"silo 2.*{text}"), sums(Images(build), mode):
        pass


def test_complex_parameters_are_refused() -> None:
    with refused("a complex parameter cannot be clipped"), sums(Images(Turned), "hooks", torch.float32):
        pass


@pytest.mark.parametrize("mode", MODES)
def test_a_buffer_that_is_not_shared_is_no_hindrance(mode: Clipping) -> None:
    with sums(Images(Table), mode) as (one, _):
        assert bool(one.sum(np.arange(9))[0].any())


def test_what_opacus_refuses_under_a_mode_is_said() -> None:
    bag = Images(lambda: nn.Sequential(nn.EmbeddingBag(4, 5)))
    with refused(r"'functorch'.*EmbeddingBag.*set privacy\.clipping"), sums(bag, "functorch"):
        pass


def test_what_opacus_stumbles_over_is_said() -> None:
    task = Images(lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(64, bias=False), nn.Linear(64, 5)))
    with refused(r"'ghost'.*AttributeError.*set privacy\.clipping"), sums(task, "ghost") as (one, _):
        one.sum(np.arange(9))


def test_low_precision_is_refused() -> None:
    task = Images(BUILDS["mlp"])
    with (
        refused(r"train\.precision = 'bfloat16'"),
        sums(task, "ghost", precision="bfloat16"),
    ):
        pass
    with refused("float32 or float64"), sums(task, "ghost", torch.bfloat16):
        pass


def test_opacus_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opacus", None)
    with refused(r"needs opacus: pip install 'silofl\[privacy\]'"), sums(Images(BUILDS["mlp"]), "ghost"):
        pass


def test_losses_of_another_shape_are_refused() -> None:
    task = Images(BUILDS["mlp"])
    mean = MeanOnly(task)
    mean.losses = mean.loss  # type: ignore[attr-defined]
    with (
        refused(r"gave \(\) for 1 examples, not \(1,\)"),
        sums(mean, "ghost") as (one, _),
    ):
        one.sum(np.arange(9))


class Normalized(nn.Module):
    """A hook gives every row's gradient one length, whatever its loss was scaled by."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(64, 9), nn.Linear(9, 5)

    def hook(self, gradient: Tensor) -> Tensor:
        return 20 * functional.normalize(gradient, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.inner(x.flatten(1)).tanh()
        if hidden.requires_grad:
            hidden.register_hook(self.hook)
        out: Tensor = self.last(hidden)
        return out


class Clamped(Normalized):
    """As recurrent networks are sometimes held in check."""

    def hook(self, gradient: Tensor) -> Tensor:
        return gradient.clamp(-1e-3, 1e-3)


@pytest.mark.parametrize("build", [Normalized, Clamped])
def test_gradients_that_do_not_scale_with_their_losses_are_refused(build: Callable[[], nn.Module]) -> None:
    with sums(Images(build), "ghost") as (one, _), refused("silo 2.*gradients do not scale with them"):
        one.sum(np.arange(9))
