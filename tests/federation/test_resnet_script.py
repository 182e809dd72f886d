"""A training script and its port: few lines apart, and with one silo the same numbers as by hand."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score

import silofl
from examples import resnet, resnet_federated
from silofl.training.seeding import INITIAL_MODEL, derive

EXAMPLES = Path(resnet.__file__).parent
MOST_CHANGED = 12


def test_the_port_changes_few_lines() -> None:
    before, after = (
        (EXAMPLES / name).read_text().splitlines() for name in ("resnet.py", "resnet_federated.py")
    )
    changed = [
        line
        for line in difflib.unified_diff(before, after, n=0, lineterm="")
        if line.startswith(("+", "-")) and not line.startswith(("+++", "---")) and line[1:].strip()
    ]
    assert 0 < len(changed) <= MOST_CHANGED, changed


def seed_of(epoch: int) -> int:
    """What silofl seeds the model with, and the order of samples in each round."""
    return derive(0, 0, epoch) if epoch else derive(0, INITIAL_MODEL, 0)


@pytest.fixture
def double() -> Iterator[None]:
    """In float32 the sum of a model and its change is rounded, and training makes much of little."""
    threads = torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patience", [1, pytest.param(3, marks=pytest.mark.long)])
def test_one_silo_has_the_numbers_of_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.chdir(tmp_path)
    if patience == 1:  # on fewer images, which takes less time
        for script in (resnet, resnet_federated):
            monkeypatch.setattr(script, "load_data", fewer(script.load_data))
    monkeypatch.setattr(resnet, "PATIENCE", patience)
    by_hand = resnet.train(seed_of)
    tables = tomllib.loads((EXAMPLES / "resnet_federated.toml").read_text())
    assert tables["run"]["rounds"] == resnet.EPOCHS
    assert tables["train"]["batch_size"] == resnet.BATCH
    tables["run"] |= {"display": "none", "stop_when": {"metric": "auc", "patience": patience}}
    tables["train"]["dtype"] = "float64"
    del tables["task"]
    result = silofl.simulate(tables, resnet_federated.Federated, silos=1)

    assert len(result.history) == len(by_hand) < resnet.EPOCHS
    best = max(range(len(by_hand)), key=lambda epoch: by_hand[epoch]["auc"])
    assert result.summary["best"]["round"] == best + 1
    assert result.summary["stopped_early"] == best + 1 + patience
    for line, expected in zip(result.history, by_hand, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], abs=1e-9)
        assert line["auc"] == pytest.approx(expected["auc"], abs=1e-3)  # pairs that share a bin
    model: Any = resnet.build_model()
    model.load_state_dict(load_file(result.path / "model.safetensors"))
    kept: Any = resnet.build_model()
    kept.load_state_dict(torch.load("best.pt"))
    for name, values in kept.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue  # a count of the silo's own
        torch.testing.assert_close(model.state_dict()[name], values, rtol=0, atol=1e-9)
    _, held_out = resnet.load_data()
    with torch.no_grad():
        scores = resnet.scores_of(model.eval(), held_out.tensors)
    assert roc_auc_score(held_out.tensors[1], scores) == pytest.approx(by_hand[best]["auc"], abs=1e-6)


def fewer(load_data: Any) -> Any:
    def load() -> Any:
        parts = load_data()
        return tuple(
            torch.utils.data.TensorDataset(*one[:count]) for one, count in zip(parts, (400, 360), strict=True)
        )

    return load
