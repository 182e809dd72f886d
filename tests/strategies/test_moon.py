"""MOON: its contrast as the paper's own code has it, the models that it compares, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silofl import config as configuration
from silofl.errors import ConfigError, DataError
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.strategies.moon import Moon
from tests.strategies.test_fedprox import Network

TRAIN = {"epochs": 2, "batch_size": 5}


def silo_of(strategy: Any, task: Any = None, **train: Any) -> Silo:
    config = configuration.parse({"train": TRAIN | train})
    return Silo(config, Network() if task is None else task, 1, 3, "cpu", strategy)


def start_of(silo: Silo, strategy: Any, number: int = 3) -> RoundStart:
    whole, count = silo.initial(), silo.model.trainable
    return RoundStart({"model": whole[:count]}, whole[count:], number, strategy)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 3.0])
def test_the_contrast_is_a_cross_entropy_over_two_cosines(temperature: float) -> None:
    """As in the authors' code: logits of both pairs over the temperature, and the first is the right one."""
    draw = torch.Generator().manual_seed(1)
    z, by_model, by_previous = (torch.randn(7, 4, generator=draw) for _ in range(3))
    pairs = [nn.functional.cosine_similarity(z, other, dim=-1) for other in (by_model, by_previous)]
    right = torch.zeros(7, dtype=torch.int64)
    expected = 2.5 * nn.functional.cross_entropy(torch.stack(pairs, 1) / temperature, right)
    found = Moon(mu=2.5, temperature=temperature).penalty(z, [by_model, by_previous])
    torch.testing.assert_close(found, expected)


def test_opposite_representations_are_finite_in_single_precision() -> None:
    """Where exp is largest: e^40 at the smallest temperature; and of zeros the gradient is zero."""
    for z in (torch.ones(2, 3), torch.zeros(2, 3)):
        z.requires_grad_()
        found = Moon(temperature=0.05).penalty(z, [-z.detach(), z.detach()])
        found.backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None
        assert torch.isfinite(found)
        assert torch.isfinite(z.grad).all()


class Random(Network):
    """A loss that draws random numbers, as augmentation does."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, (batch[0] + 0.1 * torch.randn(batch[0].shape), batch[1]))


@pytest.mark.covering(0)
@pytest.mark.parametrize("task", [Network, Random])
def test_without_a_weight_it_is_fedavg_bit_for_bit(task: Callable[[], Any]) -> None:
    """The copies draw the same random numbers as the model, and leave its buffers and hooks alone."""

    def trained(strategy: Any) -> tuple[Any, ...]:
        silo = silo_of(strategy, task())
        before = [len(one._forward_hooks) for one in silo.model.module.modules()]
        fitted = silo.fit(start_of(silo, strategy))
        assert [len(one._forward_hooks) for one in silo.model.module.modules()] == before
        vectors = {name: values.tobytes() for name, values in fitted.contribution.vectors.items()}
        silo.accept(fitted)
        again = silo.fit(start_of(silo, strategy, 4)).contribution.vectors["update"].tobytes()
        return vectors, again, silo.state()["model"]["counters"]

    assert trained(Moon("0", mu=0.0)) == trained(FedAvg())
    assert trained(Moon("0"))[1] != trained(FedAvg())[1]


def test_it_compares_with_the_shared_model_and_its_own_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation mode, with the shared model's statistics: each against a model made anew."""
    strategy, seen = Moon("4"), list[list[Tensor]]()
    silo = silo_of(strategy, full_batch=True, epochs=None, batch_size=32)
    first = silo.fit(start_of(silo, strategy))
    previous = first.state["previous"].copy()
    silo.accept(first)
    start = start_of(silo, strategy, 4)
    buffers = start.buffers.copy()
    buffers += 0.5
    model = start.shared["model"] * np.float32(1.5)
    monkeypatch.setattr(Moon, "penalty", lambda self, output, others: seen.append(others) or output.sum() * 0)
    silo.fit(RoundStart({"model": model}, buffers, 4, strategy))
    x = Network().data(1, 3).train.tensors[0]  # type: ignore[attr-defined]
    for found, parameters in zip(seen[-1], (model, previous), strict=True):
        other = silo_of(FedAvg())
        other.model.load_parts(parameters, buffers)
        with torch.no_grad():
            torch.testing.assert_close(found, other.model.module.eval()(x), rtol=0, atol=0)
        assert not found.requires_grad


def test_a_silo_without_a_state_of_its_own_takes_the_shared_model() -> None:
    strategy = Moon("0")
    silo = silo_of(strategy)
    local = silo._half.local_round(silo.strategy_state, start_of(silo, strategy))
    first, second = strategy.references(local)
    assert first is second is local.shared["model"]


class Cases(Network):
    """A model whose layers put out this and that."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 8), nn.LSTM(8, 8), First(), nn.Linear(8, 3))
        model.add_module("unused", nn.Identity())
        model.forward = lambda x: model[3](model[2](model[1](model[0](x))))  # type: ignore[method-assign]
        return model


class First(nn.Module):
    def forward(self, pair: Any) -> Any:
        return pair[0]


class Uncopied(Network):
    """A model with a tensor of a graph in an attribute, which deepcopy refuses."""

    def model(self) -> nn.Module:
        model = super().model()
        model.kept = (next(model.parameters()) * 2).sum()
        return model


LISTED = r"set it to the one whose output represents a sample, .*'0', '1', '2', '3', '4'$"


@pytest.mark.parametrize(
    ("task", "layer", "kind", "told"),
    [
        (
            Network,
            "",
            ConfigError,
            rf"strategy\.layer = '' names no module of the task's model; {LISTED}",
        ),
        (Network, "head", ConfigError, rf"strategy\.layer = 'head' names no module .*; {LISTED}"),
        (Cases, "1", ConfigError, r"strategy\.layer = '1' puts out a tuple in the task's loss, and a tensor"),
        (Cases, "unused", ConfigError, r"strategy\.layer = 'unused' puts out nothing in the task's loss"),
        (
            Uncopied,
            "0",
            DataError,
            r"copy\.deepcopy raises RuntimeError: let it be copied, such as by detach",
        ),
    ],
)
def test_a_model_that_cannot_be_compared_is_refused(
    task: Callable[[], Any], layer: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        silo_of(Moon(layer), task())


def test_clipped_gradients_of_single_samples_are_refused_and_clipped_updates_are_not() -> None:
    privacy = {"noise_multiplier": 1.0, "clip_norm": 1.0}
    moon = {"strategy": {"name": "moon", "layer": "0"}}
    example = {"unit": "example", "place": "local", "sample_rate": 0.1}
    with pytest.raises(
        ConfigError, match=r"adds a term to the loss of a batch, .* or privacy\.unit = \"silo\""
    ):
        configuration.parse(moon | {"privacy": privacy | example})
    configuration.parse(moon | {"privacy": privacy | {"unit": "silo"}})
