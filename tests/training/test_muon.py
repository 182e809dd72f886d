"""Muon on hidden matrices beside AdamW on all else, against both of torch's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError
from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon before 2.9")
STEPS = 4
HIDDEN = ["1.weight", "4.weight"]


class Words:
    """Embeddings, two hidden matrices, a normalization and a last layer."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Embedding(11, 4),
            *(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 6, bias=False), nn.Flatten()),
            nn.Linear(18, 3),
        )

    def data(self, silo: int, silos: int) -> SiloData:
        draw = torch.Generator().manual_seed(1)
        words = torch.randint(11, (20, 3), generator=draw)
        return SiloData(TensorDataset(words, words.sum(1) % 3))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


class Tied(Words):
    """A last layer that is the embedding."""

    def model(self) -> nn.Module:
        model = nn.Sequential(nn.Embedding(11, 4), nn.Linear(4, 4), nn.Linear(4, 11, bias=False))
        model[2].weight = model[0].weight
        return model

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0])[:, 0], batch[1])


class Single(Words):
    """No hidden matrix."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3, 3))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, (batch[0].to(model[1].weight.dtype), batch[1]))


def silo_of(task: Any = None, **train: Any) -> Silo:
    table = {"full_batch": True, "steps": STEPS, "optimizer": "Muon", "lr": 0.02} | train
    return Silo(configuration.parse({"train": table}), task or Words(), 0, 1, "cpu")


def fit(silo: Silo, number: int = 1) -> None:
    """From the untrained model, which every silo of a test has; what was trained is in the silo's model."""
    silo.model.load(silo_of().initial())
    silo.trainer.fit(number)


def named(silo: Silo) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in silo.model.module.named_parameters()}


SAME = {"adjust_lr_fn": "match_rms_adamw"}


@pytest.mark.parametrize(
    ("train", "muon", "adamw", "hidden"),
    [
        ({}, SAME, {}, HIDDEN),
        (
            {"momentum": 0.8, "weight_decay": 0.3},
            SAME | {"momentum": 0.8, "weight_decay": 0.3},
            {"weight_decay": 0.3},
            HIDDEN,
        ),
        (
            {"options": {"adjust_lr_fn": "original", "ns_steps": 3}},
            {"adjust_lr_fn": "original", "ns_steps": 3},
            {},
            HIDDEN,
        ),
        (
            {"options": {"adamw": {"lr": 0.001, "betas": [0.8, 0.9]}}},
            SAME,
            {"lr": 0.001, "betas": (0.8, 0.9)},
            HIDDEN,
        ),
        ({"options": {"matrices": ["[06].weight"]}}, SAME, {}, ["0.weight", "6.weight"]),
    ],
)
def test_it_steps_as_torch_s_own_two(train: Any, muon: Any, adamw: Any, hidden: list[str]) -> None:
    silo = silo_of(**train)
    module, task = copy.deepcopy(silo.model.module), Words()
    fit(silo)
    parameters = dict(module.named_parameters())
    kind: Any = torch.optim.Muon
    optimizers = [
        kind([parameters.pop(name) for name in hidden], **{"lr": 0.02} | muon),
        torch.optim.AdamW(parameters.values(), **{"lr": 0.02} | adamw),
    ]
    for _ in range(STEPS):
        module.zero_grad()
        task.loss(module, task.data(0, 1).train.tensors).backward()  # type: ignore[attr-defined,no-untyped-call]
        for one in optimizers:
            one.step()
    for name, expected in module.named_parameters():
        torch.testing.assert_close(silo.model.module.get_parameter(name), expected, rtol=0, atol=0)


def test_a_resume_goes_on_bit_for_bit_with_the_moments_of_both() -> None:
    silos = [silo_of(keep_optimizer=True) for _ in range(3)]
    fit(silos[0])
    fit(silos[1])
    silos[2].restore(copy.deepcopy(silos[1].state()))
    for one in (silos[0], silos[2]):
        fit(one, 2)
    afresh = silo_of()
    fit(afresh, 2)
    found, resumed, other = (named(one) for one in (silos[0], silos[2], afresh))
    for name, values in found.items():
        assert torch.equal(values, resumed[name]), name
        assert not torch.equal(values, other[name]), name


def test_where_the_last_layer_is_an_embedding_the_matrix_before_it_is_hidden() -> None:
    silo = silo_of(Tied())
    optimizer: Any = silo.trainer._optimizer
    matrices = [p.shape for group in optimizer._parts["muon"].param_groups for p in group["params"]]
    assert matrices == [(4, 4)]


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        (Single, {}, r"no hidden matrix for Muon, .* set train\.optimizer = 'AdamW', or name matrices in"),
        (Words, {"matrices": ["head*"]}, r"no hidden matrix for Muon"),
        (Words, {"matrices": ["1.*"]}, r"Muon only supports 2D parameters"),
        (Words, {"matrices": "1.weight"}, r"train\.options\.matrices = '1\.weight' has to be a list"),
        (Words, {"betas": [0.9, 0.9]}, r"refuses its options: .*unexpected keyword argument 'betas'"),
        (Words, {"adamw": {"nesterov": True}}, r"refuses its options: .*'nesterov'"),
    ],
)
def test_what_it_cannot_step_is_refused(task: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        silo_of(task(), options=options)
