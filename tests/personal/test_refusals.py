"""Pairs that do not go together are refused when the configuration is read, and say what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.errors import ConfigError, DataError
from silofl.federation.dry_run import dry_run
from silofl.federation.local_work import RoundStart
from silofl.federation.silo import Silo
from silofl.strategies.fedavg import FedAvg
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification

OWN_STEPS = ("mrmtl", "apfl", "pfedme", "perfedavg")


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ({"personal": {"name": "fedper"}}, "personal.layers names none: set it to patterns of"),
        ({"personal": {"name": "fedrep"}}, "personal.layers names none"),
        ({"personal": {"name": "fedpr"}}, "personal.name = 'fedpr' is not allowed: .* did you mean 'fedper'"),
        (
            {"personal": {"name": "ditto", "alpha": 0.5}},
            "personal.alpha is a key of 'apfl' and personal.name is 'ditto', which has name, mu, epochs, lr",
        ),
        ({"personal": {"mu": 0.1}}, "personal.mu is a key of 'ditto', 'mrmtl' or 'pfedme'"),
        ({"personal": {"name": "ditto", "mu": -1.0}}, "personal.mu = -1.0 is not allowed"),
        ({"personal": {"name": "fedper", "layers": "head.*"}}, r"a list, such as \[\"head\.\*\"\]"),
        ({"personal": {"name": "apfl", "alpha": 1.5}}, "personal.alpha = 1.5 is not allowed"),
        (
            {"personal": {"name": "fedbn"}, "strategy": {"name": "fedsgd"}},
            'personal.name = "fedbn" needs local steps, and strategy.name = "fedsgd" takes none',
        ),
        (
            {"personal": {"name": "fedrep", "layers": ["head.*"]}, "train": {"keep_optimizer": True}},
            "train.keep_optimizer = true keeps one: remove it",
        ),
        (
            {"personal": {"name": "ditto"}, "privacy": {"unit": "example", "noise_multiplier": 1.0}},
            'trains on records without noise, which privacy.unit = "example" does not cover',
        ),
        (
            {"train": {"seconds": 2.0}, "strategy": {"name": "fedsgd"}},
            'train.seconds = 2.0 bounds local steps, and strategy.name = "fedsgd" takes none: remove it',
        ),
        (
            {
                "train": {"seconds": 2.0},
                "privacy": {"unit": "example", "noise_multiplier": 1.0, "place": "local"},
            },
            "train.seconds = 2.0 leaves open how many steps there are, and each costs epsilon",
        ),
        (
            {"personal": {"name": "fedbn"}, "train": {"batch_norm": "local"}},
            'train.batch_norm = "local" keeps running statistics .* personal.name = "fedbn" has its own',
        ),
        (
            {"train": {"batch_norm": "recomputed"}, "privacy": {"unit": "silo", "noise_multiplier": 1.0}},
            'train.batch_norm = "recomputed" keeps statistics that records decide, without noise',
        ),
        *(
            (
                {"personal": {"name": name}, "strategy": {"name": "scaffold"}},
                f'personal.name = "{name}" has local steps of its own, and so has strategy.name = "scaffold"',
            )
            for name in OWN_STEPS
        ),
        *(
            (
                {"personal": {"name": name}, "train": {"optimizer": "SparseAdam"}},
                f'"SparseAdam" takes sparse gradients alone, and personal.name = "{name}" steps along dense',
            )
            for name in ("ditto", *OWN_STEPS)
        ),
        (
            {"personal": {"name": "mrmtl"}, "train": {"precision": "float16"}},
            'adds gradients up, which train.precision = "float16" scales',
        ),
    ],
)
def test_illegal_pairs_are_refused_when_the_configuration_is_read(tables: Any, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        configuration.parse(tables)


class Plain(Classification):
    """Four points, and a model without batch normalization."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LayerNorm(3), nn.Linear(3, 2))

    def data(self, silo: int, silos: int) -> SiloData:
        records = TensorDataset(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))
        return SiloData(records, records)


class WithHead(Plain):
    """One that keeps its last layer."""

    private = ("3.*",)


def silo(task: Any, **personal: Any) -> Silo:
    return Silo(configuration.parse({"personal": personal}), task, 1, 4, "cpu")


def test_fedbn_needs_batch_normalization() -> None:
    with pytest.raises(
        ConfigError, match=r'silo 1: .*fedbn.* the model has none .* set personal.name = "fedper"'
    ):
        silo(Plain(), name="fedbn")


@pytest.mark.parametrize("name", ["finetune", "ditto", *OWN_STEPS])
def test_a_whole_model_of_ones_own_does_not_go_with_private_parts(name: str) -> None:
    with pytest.raises(ConfigError, match=r"silo 1: .* attribute private .* remove one of them"):
        silo(WithHead(), name=name)


def test_layers_of_the_method_and_of_the_task_stay_both() -> None:
    one = silo(WithHead(), name="fedper", layers=["0.*"])
    assert one.model.private_names == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_layers_that_match_nothing_are_refused() -> None:
    with pytest.raises(DataError, match=r"'heads.*', of the task or of personal.layers, matches no"):
        silo(Plain(), name="fedper", layers=["heads.*"])


def test_statistics_of_a_model_without_any_are_refused() -> None:
    config = configuration.parse({"train": {"batch_norm": "local"}})
    with pytest.raises(ConfigError, match=r'silo 1: train.batch_norm = "local" is about .* remove it'):
        Silo(config, Plain(), 1, 4, "cpu")


class Norms(nn.Module):
    """One batch normalization under two names, and one whose name has what fnmatch gives a meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.sites = nn.ModuleDict({"site[0]": nn.BatchNorm1d(2)})
        self.again = self.sites["site[0]"]
        self.scores = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Any:
        return self.scores(self.again(self.sites["site[0]"](x)))


class WithNorms(Plain):
    """Another model."""

    def model(self) -> nn.Module:
        return Norms()


class Compiled(Plain):
    """Another model, in torch.compile's wrapping."""

    def model(self) -> nn.Module:
        return torch.compile(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), backend="eager")  # type: ignore[return-value]


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    "tables", [{"personal": {"name": "fedbn"}}, {"train": {"batch_norm": "recomputed"}}], ids=["fedbn", "own"]
)
@pytest.mark.parametrize(
    ("task", "names"), [(WithNorms, ("sites.site[0]", "again")), (Compiled, ("0",))], ids=["two", "compiled"]
)
def test_batch_normalization_stays_by_whichever_names(tables: Any, task: Any, names: Any) -> None:
    kinds = ("running_mean", "running_var", *(("weight", "bias") if "personal" in tables else ()))
    one = Silo(configuration.parse(tables), task(), 1, 4, "cpu")
    assert one.model.private_names == {f"{name}.{kind}" for name in names for kind in kinds}


@pytest.mark.parametrize("layers", ["0.running_*", "0.*"])
def test_a_head_without_trained_parameters_is_refused(layers: str) -> None:
    class Held(Plain):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.BatchNorm1d(2).requires_grad_(requires_grad=False), nn.Linear(2, 2))

    one = silo(Held(), name="fedrep", layers=[layers])
    values = one.initial()
    count = one.model.trainable
    start = RoundStart({"model": values[:count]}, values[count:], 1, FedAvg())
    with pytest.raises(ConfigError, match=r"silo 1: personal.layers names nothing that is trained"):
        one.fit(start)


def test_check_tells_of_the_method_and_counts_the_own_model() -> None:
    """A whole model of each silo's own, and what is put aside for it, beside a run that keeps none."""
    tables = {"task": {"name": "synthetic"}}
    shared = dry_run(configuration.parse(tables), 4)
    ditto = dry_run(configuration.parse({**tables, "personal": {"name": "ditto"}}), 4)
    assert not shared.personal
    assert ditto.personal.startswith("ditto: each silo keeps a model of its own")
    assert ditto.memory_mib > shared.memory_mib
