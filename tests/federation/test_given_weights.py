"""Weights that a run begins with: any safetensors file of the model, the same at all silos."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch import nn

from silofl.errors import ConfigError, MismatchError
from silofl.federation.dry_run import dry_run
from silofl.tasks import early, registry
from tests.federation.own_scripts import CLASSES, FEATURES, Plain, federate, settings


def start(path: Path, weights: Path | str, task: Any = Plain, **sections: Any) -> Any:
    """A run of one round that moves nothing by much."""
    train = {"steps": 1, "lr": 1e-9}
    sections = {"run": {"rounds": 1}, "train": train, "task": {"weights": str(weights)}, **sections}
    return federate(settings(path, **sections), task)


def test_a_run_begins_with_the_model_of_another(tmp_path: Path) -> None:
    federate(settings(tmp_path / "first", run={"rounds": 1}), Plain)
    given = tmp_path / "first" / "model.safetensors"
    assert start(tmp_path / "second", given)["rounds"] == 1
    before, after = load_file(given), load_file(tmp_path / "second" / "model.safetensors")
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=0, atol=1e-6)
    assert abs(before["0.weight"]).sum() > 1


class Tied(Plain):
    def model(self) -> nn.Module:
        model = nn.Sequential(
            nn.Linear(FEATURES, FEATURES, bias=False), nn.Linear(FEATURES, FEATURES, bias=False)
        )
        model[1].weight = model[0].weight
        return model.append(nn.Linear(FEATURES, CLASSES))


class Own(Plain):
    private = ("2.*",)


def test_a_file_may_have_a_tied_tensor_once_and_lack_what_is_private(tmp_path: Path) -> None:
    state = {name: one.clone() for name, one in Tied().model().state_dict().items() if name != "1.weight"}
    save_file(state, tmp_path / "tied.safetensors")
    assert start(tmp_path / "a", tmp_path / "tied.safetensors", Tied)["rounds"] == 1
    state = {name: one for name, one in Plain().model().state_dict().items() if name.startswith("0.")}
    save_file(state, tmp_path / "body.safetensors")
    assert start(tmp_path / "b", tmp_path / "body.safetensors", Own)["rounds"] == 1


def changed(**more: Any) -> dict[str, Any]:
    state = Plain().model().state_dict() | more
    return {name: one for name, one in state.items() if one is not None}


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"0.bias": None, "2.bias": None}, "it lacks 0.bias, 2.bias: give the file of a model"),
        ({"other": torch.zeros(2)}, "it has, and the model has not, other"),
        ({"0.bias": torch.zeros(9)}, "it has other shapes: 0.bias (9,) in the file and (8,) in the model"),
        ({"0.bias": torch.zeros(8, dtype=torch.complex64)}, "it has other types: 0.bias of complex64"),
    ],
    ids=["missing", "unexpected", "unlike", "complex"],
)
def test_weights_of_another_model_are_one_sentence(
    tmp_path: Path, state: dict[str, Any], sentence: str
) -> None:
    save_file(changed(**state), tmp_path / "given.safetensors")
    error = start(tmp_path / "run", tmp_path / "given.safetensors")
    assert type(error) is ConfigError
    assert sentence in str(error)


def test_pickles_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"0.bias": 1}))
    error = start(tmp_path / "a", tmp_path / "model.pt")
    assert "is no safetensors file, and others, such as pickles of torch, may hold code" in str(error)
    missing = settings(tmp_path, task={"weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(ConfigError, match=r"silo 1: task\.weights = .* cannot be read: No such file"):
        early.refuse_early(missing, 1)
    error = start(tmp_path / "b", tmp_path / "none.safetensors")
    assert str(error).startswith("silo 0: task.weights = ")
    assert "cannot be read: No such file or directory" in str(error)


def test_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    """Which nobody writes to: reading it would never end."""
    os.mkfifo(tmp_path / "pipe")
    assert "cannot be read: it is no plain file" in str(start(tmp_path / "a", tmp_path / "pipe"))


def test_silos_with_unlike_weights_are_named(tmp_path: Path) -> None:
    for silo in range(2):
        torch.manual_seed(silo)
        save_file(Plain().model().state_dict(), tmp_path / f"{silo}.safetensors")
    error = start(tmp_path / "run", tmp_path / "{silo}.safetensors")
    assert type(error) is MismatchError
    assert "task.weights of silo 1 is another file than silo 0's" in str(error)


def test_a_dry_run_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "build", lambda config, alone: Plain())
    keys: dict[str, Any] = {"keep_best": "auc"}
    with pytest.raises(ConfigError, match="watches the metric 'auc', and the task has accuracy, loss"):
        dry_run(settings(tmp_path, run=keys), 2)
    for silo in range(2):
        torch.manual_seed(silo)
        save_file(Plain().model().state_dict(), tmp_path / f"{silo}.safetensors")
    with pytest.raises(MismatchError, match=r"task\.weights of silo 1 is another file"):
        dry_run(settings(tmp_path, task={"weights": str(tmp_path / "{silo}.safetensors")}), 2)
