"""Federations whose silos train on GPUs that are not there: the host's bits, and what is refused there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import SiloflError
from silofl.federation.loop import train
from tests.campaigns import mostly_long
from tests.federation import test_privacy as private
from tests.federation.threads import Normalized
from tests.training.fake_gpu import FakeGpu, gpus


class Personal(Normalized):
    """Its head stays with its silo, and it counts batches."""

    private = ("1.*",)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {"accuracy": (model(batch[0]).argmax(1) == batch[1]).float().mean()}


FULL: Any = {"full_batch": True, "steps": 2, "momentum": 0.9, "keep_optimizer": True}
BATCHES: Any = {"steps": 3, "batch_size": 8, "momentum": 0.9, "keep_optimizer": True, "clip_norm": 1.0}
SGD: Any = {"steps": 3, "batch_size": 8}
ADAM: Any = {"epochs": 1, "batch_size": 16, "optimizer": "AdamW", "keep_optimizer": True}

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fedavg": (Normalized, {"train": ADAM, "strategy": {"momentum": 0.5, "lr": 0.7}}),
    "fedprox": (Normalized, {"train": BATCHES, "strategy": {"name": "fedprox"}}),
    "fedsgd": (Normalized, {"train": {"full_batch": True}, "strategy": {"name": "fedsgd"}}),
    "bfloat16": (Normalized, {"train": FULL | {"dtype": "bfloat16", "options": {"foreach": False}}}),
    "scaffold": (
        Normalized,
        {"train": SGD, "strategy": {"name": "scaffold"}, "secure": {"protocol": "secagg"}},
    ),
    "personal": (Personal, {"train": BATCHES}),
}


def run(config: Config, task: Any, silos: int, *, gpu: bool, resume: bool = False) -> list[Any]:
    """What every silo has in the end."""

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            if not gpu:
                return train(config, task(), comm=comm, resume=resume)
            with FakeGpu():
                return train(config, task(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=100)


def settings(path: Path, device: str, rounds: int, sections: dict[str, Any]) -> Config:
    tables = {**sections, "run": {"name": "gpu", "dir": str(path), "display": "none", "rounds": rounds}}
    return configuration.parse({**tables, "train": {**sections["train"], "device": device}})


@pytest.mark.long
@pytest.mark.parametrize("kind", mostly_long(list(KINDS), 5))
def test_a_run_on_gpus_that_is_resumed_has_the_bits_of_one_on_the_host(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, sections = KINDS[kind]
    run(settings(tmp_path / "host", "cpu", 3, sections), task, 3, gpu=False)
    with gpus(monkeypatch):
        for rounds, resume in ((2, False), (3, True)):
            found = run(
                settings(tmp_path / "gpu", "cuda", rounds, sections), task, 3, gpu=True, resume=resume
            )
            assert not [error for error in found if isinstance(error, Exception)]
    host, gpu = (next(tmp_path.glob(f"{name}/**/model.safetensors")) for name in ("host", "gpu"))
    assert gpu.read_bytes() == host.read_bytes()


@pytest.mark.parametrize(
    ("privacy", "sections"),
    mostly_long(
        [
            ({"unit": "example", "place": "local", "sample_rate": 0.2}, private.LOCAL),
            ({"unit": "example", "sample_rate": 0.2}, {}),
            ({"unit": "silo", "sample_rate": 0.1}, {"strategy": {"name": "fedavg", "momentum": 0.0}}),
        ],
        0,
    ),
    ids=["local", "example", "silo"],
)
def test_private_steps_on_gpus(
    privacy: dict[str, Any], sections: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {**sections.get("train", {}), "device": "cuda"}
    tables = {**sections, "privacy": privacy, "train": train, "run": {"rounds": 2}}
    with gpus(monkeypatch):
        found = run(private.settings(tmp_path, **tables), private.Plain, 3, gpu=True)
    assert not [error for error in found if isinstance(error, Exception)]
