"""Runs at the edges: few values, few kinds of values, private parameters, rounds that are not evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from silofl.checkpoint.atomic_files import read_tree
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from tests.federation.reference import Attendance, Reference
from tests.federation.test_traffic import OneParameter, WithoutBuffers
from tests.federation.threads import CLASSES, FEATURES, Normalized, prepare, records, settings

SILOS, ALL = 3, (0, 1, 2)


class Personal(Normalized):
    """A shared body, and a head of each silo's own."""

    private: ClassVar[tuple[str, ...]] = ("1.*",)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        x, y = batch
        return {"accuracy": (model(x).argmax(1) == y).float().mean()}


def together(
    config: Config, task: type[Normalized], silos: int = SILOS, *, resume: bool = False
) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, task(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=110)


@pytest.mark.covering(1)
@pytest.mark.parametrize("task", [OneParameter, WithoutBuffers, Normalized])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("protocol", ["plain", "secagg"])
def test_models_of_any_size_and_type(
    tmp_path: Path, task: type[Normalized], dtype: str, protocol: str
) -> None:
    config = settings(tmp_path, train={"dtype": dtype}, secure={"protocol": protocol})
    digests = {result["model_sha256"] for result in together(config, task)}
    reference = Reference(config, SILOS, task())
    reference.rounds([Attendance(ALL, ALL)] * 4)
    assert digests == {reference.model_sha256()}


@pytest.mark.covering(0)
@pytest.mark.parametrize("protocol", ["plain", "secagg", "additive"])
def test_gradients_of_models_with_buffers(tmp_path: Path, protocol: str) -> None:
    """FedSGD: parameters take a step, buffers the mean of what a pass over the data made of them."""
    tables: dict[str, Any] = {"train": {"momentum": 0.0, "keep_optimizer": False}}
    strategy = {"name": "fedsgd", "lr": 0.5, "momentum": 0.5}
    runs = {
        name: settings(tmp_path / name, strategy=strategy, secure={"protocol": name, **more}, **tables)
        for name, more in (("plain", {}), (protocol, {} if protocol == "plain" else {"bits": 32}))
    }
    models = []
    for name, config in runs.items():
        assert len({result["model_sha256"] for result in together(config, Normalized)}) == 1
        models.append(load_file(tmp_path / name / "model.safetensors"))
    for name, values in models[0].items():
        np.testing.assert_allclose(models[-1][name], values, rtol=0, atol=1e-6)
    assert np.any(models[0]["0.running_mean"])
    assert np.any(models[0]["1.weight"])


def test_only_some_rounds_are_evaluated(tmp_path: Path) -> None:
    config = settings(tmp_path, run={"evaluate_every": 3, "share_silo_metrics": True})
    together(config, Personal)
    lines = records(tmp_path)
    assert ["accuracy" in line for line in lines] == [False, False, True, True]  # the last one always is
    assert [["accuracy" in own for own in line["per_silo"]] for line in lines] == [
        [seen] * SILOS for seen in (False, False, True, True)
    ]
    assert all("train_loss" in own for line in lines for own in line["per_silo"])


def test_silos_show_nothing_of_their_own_unless_told_to(tmp_path: Path) -> None:
    together(settings(tmp_path, run={"share_silo_metrics": False}), Personal)
    assert [line["per_silo"] for line in records(tmp_path)] == [[{}] * SILOS] * 4


def trees(path: Path, number: int) -> list[Any]:
    directory = CheckpointDirectory(path / "checkpoints", 0)
    manifest = next(one for one in directory.manifests()[0] if one.round == number)
    return [
        read_tree(directory.folder(number) / entry.name, entry.sha256) for entry in manifest.files.values()
    ]


def test_private_parameters_stay_with_their_silo_and_are_resumed(tmp_path: Path) -> None:
    together(settings(tmp_path / "whole"), Personal)
    together(settings(tmp_path / "part", run={"rounds": 2}), Personal)
    together(settings(tmp_path / "part"), Personal, resume=True)
    published = load_file(tmp_path / "whole" / "model.safetensors")
    assert published
    assert not [name for name in published if name.startswith("1.")]

    whole, part = (trees(tmp_path / name, 4) for name in ("whole", "part"))
    heads = [tree["silo"]["model"]["private"]["1.weight"] for tree in whole]
    assert len({head.tobytes() for head in heads}) == SILOS
    for silo, head in enumerate(heads):
        assert head.tobytes() == part[silo]["silo"]["model"]["private"]["1.weight"].tobytes()
        assert head.shape == (CLASSES, FEATURES)
        for other, tree in enumerate(whole):
            if other != silo:
                assert head[0].tobytes() not in leaves(tree)


def leaves(node: Any) -> bytes:
    """All arrays of a tree."""
    if isinstance(node, dict):
        return b"".join(leaves(value) for value in node.values())
    if isinstance(node, list):
        return b"".join(leaves(value) for value in node)
    return bytes(node.tobytes()) if isinstance(node, np.ndarray) else b""


class Uneven(Normalized):
    """Rank 1 has labels that no class has, and its loss fails."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        loss = super().loss(model, batch)
        return loss * float("nan") if len(batch[1]) == 53 else loss


def test_a_loss_that_is_not_finite_on_one_rank_ends_all_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    results = together(settings(tmp_path), Uneven)
    assert len({str(result) for result in results}) == 1
    assert isinstance(results[0], SiloflError)
    assert results[0].rank == 1


class Diverging(Normalized):
    """One silo's loss is a sum over very many."""

    def data(self, silo: int, silos: int) -> SiloData:
        self.factor = 1e12 if silo == 1 else 1.0
        return super().data(silo, silos)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return super().loss(model, batch) * self.factor


def test_a_silo_whose_values_drown_the_others_is_named_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(tmp_path, run={"rounds": 1, "display": "plain", "share_silo_metrics": False})
    together(config, Diverging)
    (line,) = records(tmp_path)
    assert line["lost_tensors"]["1.weight"] == 2
    assert line["widest"]["1.weight"] == [1]
    assert (
        "more than half of 1.weight at 2 of 3 silos, for silo 1 asked for so wide a range"
        in capsys.readouterr().out
    )
