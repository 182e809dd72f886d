"""Federations of models as they are built in practice, against averaging their state dicts by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import default_collate

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything
from silofl.training.slots import is_number
from tests.campaigns import mostly_long
from tests.federation.descent import LR, SILOS, STEPS, descend, take_up
from tests.federation.look_alikes import LookAlike

MODELS = sorted(LookAlike.models)


def federate(path: Path, name: str, rounds: int, *, resume: bool = False, **secure: Any) -> dict[str, Tensor]:
    dtype = "float32" if name == "fourier" else "float64"
    settings = configuration.parse(
        {
            "run": {"name": "by-hand", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": dtype},
            "secure": secure or {"protocol": "plain"},
        }
    )

    def rank(comm: Communicator) -> None:
        torch.set_num_threads(1)
        train(settings, LookAlike(name), comm=comm, resume=resume)

    run_in_threads(SILOS, rank, timeout_s=60)
    return load_file(path / "model.safetensors")


def untrained(name: str) -> nn.Module:
    seed_everything(derive(0, INITIAL_MODEL, 0))
    return LookAlike(name).model()


def real(name: str, tensor: Tensor) -> Tensor:
    return tensor.double() if name != "fourier" and tensor.is_floating_point() else tensor


def by_hand(name: str, rounds: int) -> dict[str, Tensor]:
    """FedAvg with models of their own: states in, steps, states out, their mean by numbers of samples."""
    task, first = LookAlike(name), untrained(name)
    models = [first if name == "fourier" else first.double()]
    if name == "tied":  # Module.double makes two buffers of one
        models[0].get_submodule("out").register_buffer("scale", models[0].get_buffer("scale"))
    models += [copy.deepcopy(models[0]) for _ in range(SILOS - 1)]
    data = [task.data(silo, SILOS).train for silo in range(SILOS)]
    total = sum(map(len, data))
    state = copy.deepcopy(models[0].state_dict())
    for _ in range(rounds):
        after = []
        for model, samples in zip(models, data, strict=True):
            take_up(model, state)
            batch = default_collate([samples[index] for index in range(len(samples))])
            entries = batch.items() if isinstance(batch, dict) else enumerate(batch)
            placed: Any = {key: real(name, value) for key, value in entries}
            descend(task, model, placed if isinstance(batch, dict) else list(placed.values()))
            after.append(copy.deepcopy(model.state_dict()))
        parts = [(len(samples) / total, one) for samples, one in zip(data, after, strict=True)]
        state = {k: sum(w * one[k] for w, one in parts) if is_number(v) else v for k, v in state.items()}
    return state


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference; all keys are there, of one type, and infinite values are equal."""
    assert set(found) == set(expected)
    assert {key: t.dtype for key, t in found.items()} == {key: t.dtype for key, t in expected.items()}
    return max(_gap(found[key], expected[key]) for key in found)


def _gap(one: Tensor, other: Tensor) -> float:
    different = one != other
    return float((one[different] - other[different]).abs().max()) if bool(different.any()) else 0.0


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", mostly_long(MODELS, 5))
def test_the_model_is_the_mean_of_state_dicts_also_when_resumed(name: str, tmp_path: Path) -> None:
    expected = by_hand(name, 2)
    whole = federate(tmp_path / "whole", name, 2)
    assert furthest(whole, expected) < (1e-6 if name == "fourier" else 1e-12)
    federate(tmp_path / "parts", name, 1)
    resumed = federate(tmp_path / "parts", name, 2, resume=True)
    assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())
    untrained(name).load_state_dict(whole)
    with safe_open(tmp_path / "whole" / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


@pytest.mark.covering(0)
@pytest.mark.parametrize("name", ["gpt", "unet"])
def test_a_secure_sum_is_the_same_mean_within_its_fixed_point(name: str, tmp_path: Path) -> None:
    assert 0 < furthest(federate(tmp_path, name, 2, protocol="secagg", bits=32), by_hand(name, 2)) < 1e-7
