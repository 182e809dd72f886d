"""Adapters: of both factors one is frozen, what is frozen is not sent, and the mean is that of products."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from silofl.errors import ConfigError
from silofl.federation.silo import Silo
from silofl.tasks.lora import freeze_a, pairs_of
from tests.federation.own_scripts import CLASSES, FEATURES, Plain, federate, settings

PEFT = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed: pip install '.[lora]'"
)
ROOT = Path(__file__).resolve().parents[2]


class Adapter(nn.Module):
    """A frozen matrix with an adapter, by PEFT's names."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(FEATURES, CLASSES).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(FEATURES, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, CLASSES, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base(x) + inner


class Both(Plain):
    def model(self) -> nn.Module:
        return Adapter()


class Right(Plain):
    def model(self) -> nn.Module:
        return freeze_a(Adapter())


def product(state: Any) -> Any:
    return np.asarray(state["lora_B.default.weight"]) @ np.asarray(state["lora_A.default.weight"])


@pytest.mark.parametrize(("task", "right"), [(Right, True), (Both, False)])
def test_the_mean_of_products_is_the_product_of_means_where_a_is_frozen(
    tmp_path: Path, task: type[Plain], right: bool
) -> None:
    products = []
    config = settings(tmp_path, run={"rounds": 1}, train={"lr": 0.5, "epochs": 4})
    summary = federate(config, task)
    for silo in range(2):
        made = Silo(config, task(), silo, 2, "cpu")
        made.trainer.fit(1)
        products.append(product({name: one.detach() for name, one in made.model.module.state_dict().items()}))
    distance = abs(product(load_file(tmp_path / "model.safetensors")) - np.mean(products, axis=0)).max()
    assert (distance < 1e-6) == right
    assert summary["parameters"] == (2 * CLASSES if right else 2 * CLASSES + 2 * FEATURES)


def test_factors_that_are_both_trained_are_named(tmp_path: Path) -> None:
    said = Silo(settings(tmp_path), Both(), 0, 2, "cpu").notices()
    assert said == [
        "lora_A.default.weight and lora_B.default.weight are both trained, and the mean of silos' products "
        "is not the product of the means of these: freeze the first by silofl.tasks.lora.freeze_a(model)"
    ]
    assert Silo(settings(tmp_path), Right(), 0, 2, "cpu").notices() == []


def test_what_has_no_adapter_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="the Linear has no parameters lora_A and lora_B"):
        freeze_a(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"freeze_a: lora_B\.default\.weight is frozen, too"):
        freeze_a(Adapter().requires_grad_(False))
    assert pairs_of(["a.lora_A.x", "a.lora_B.x", "b.lora_A.x"]) == [("a.lora_A.x", "a.lora_B.x")]


@PEFT
@pytest.mark.long
@pytest.mark.timeout(600)
def test_adapters_of_peft_alone_are_sent_and_all_of_them_move(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from examples.lora_text import AdaptedNews

    tables = tomllib.loads((ROOT / "examples" / "lora_text.toml").read_text())
    options = tables["task"]["options"]

    def task() -> AdaptedNews:
        return AdaptedNews(**options)

    config = settings(tmp_path / "run", run={"rounds": 10}, train=tables["train"])
    first = Silo(config, task(), 0, 2, "cpu")
    names = first.model.tensor_names
    assert all("lora_B" in name or "classifier.modules_to_save" in name for name in names)
    begun = {name: one.detach().clone() for name, one in first.model.module.state_dict().items()}
    assert first.model.size < sum(one.numel() for one in begun.values()) / 5
    with caplog.at_level("INFO"):
        summary = federate(config, task)
    assert "has not moved" not in caplog.text
    assert "are both trained" not in caplog.text
    assert summary["parameters"] == first.model.size
    trained = load_file(tmp_path / "run" / "model.safetensors")
    assert trained.keys() == begun.keys()
    for name, before in begun.items():
        assert torch.equal(trained[name], before) == (name not in names), name
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses[-1] < losses[0] - 0.1
    weights = {"weights": str(tmp_path / "run" / "model.safetensors")}
    again = Silo(settings(tmp_path / "again", task=weights, train=tables["train"]), task(), 0, 2, "cpu")
    for name, one in again.model.module.state_dict().items():
        assert torch.equal(one, trained[name]), name
