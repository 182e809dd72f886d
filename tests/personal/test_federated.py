"""Whole federations with personal models against the plain references: in the clear, masked, with deaths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.loop import train
from silofl.personal.registry import METHODS
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.personal import naive
from tests.strategies.naive import ALL, CLASSES, INPUTS, SIZES, Array, silos
from tests.strategies.test_federated import FAULT, LENGTHS, LR, STEPS, WITHOUT_2, Softmax, deaths


class Rows(nn.Module):
    """Softmax regression as two layers: the scores of the first class, and of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(INPUTS, 1, bias=False)
        self.rest = nn.Linear(INPUTS, CLASSES - 1, bias=False)
        for one in (self.head, self.rest):
            nn.init.zeros_(one.weight)

    def forward(self, x: Any) -> Any:
        return torch.cat([self.head(x), self.rest(x)], 1)


class InRows(Softmax):
    """`Softmax` with a head."""

    def model(self) -> nn.Module:
        return Rows()

    def data(self, silo: int, silos: int) -> SiloData:
        found = super().data(silo, silos)
        return SiloData(found.train, found.train)


HEAD = slice(0, INPUTS)
CASES: list[tuple[dict[str, Any], Any]] = [
    (
        {"name": "finetune", "epochs": 3, "lr": 0.2},
        lambda data, here: naive.finetune(data, here, LR, STEPS, 3, 0.2),
    ),
    ({"name": "ditto", "mu": 0.5}, lambda data, here: naive.ditto(data, here, LR, STEPS, 0.5, STEPS)),
    (
        {"name": "ditto", "mu": 0.5, "epochs": 2, "lr": 0.3},
        lambda data, here: naive.ditto(data, here, LR, STEPS, 0.5, 2),
    ),
    ({"name": "mrmtl", "mu": 0.7}, lambda data, here: naive.mrmtl(data, here, LR, STEPS, 0.7)),
    (
        {"name": "apfl", "alpha": 0.4},
        lambda data, here: naive.apfl(data, here, LR, STEPS, 0.4, adaptive=True)[:2],
    ),
    (
        {"name": "apfl", "alpha": 0.4, "adaptive": False},
        lambda data, here: naive.apfl(data, here, LR, STEPS, 0.4, adaptive=False)[:2],
    ),
    (
        {"name": "pfedme", "mu": 2.0, "inner_steps": 3, "inner_lr": 0.1},
        lambda data, here: naive.pfedme(data, here, LR, STEPS, 2.0, 3, 0.1),
    ),
    (
        {"name": "perfedavg", "inner_lr": 0.2},
        lambda data, here: naive.perfedavg(data, here, LR, STEPS, 0.2, second_order=False),
    ),
    (
        {"name": "perfedavg", "inner_lr": 0.2, "variant": "hessian-free", "difference": 1e-4},
        lambda data, here: naive.perfedavg(data, here, LR, STEPS, 0.2, second_order=True),
    ),
    (
        {"name": "fedper", "layers": ["head.*"]},
        lambda data, here: naive.parts(data, here, LR, STEPS, HEAD, None),
    ),
    (
        {"name": "fedrep", "layers": ["head.*"], "head_epochs": 4},
        lambda data, here: naive.parts(data, here, LR, STEPS, HEAD, 4),
    ),
]
IDS = [str(table) for table, _ in CASES]
RESUMED = pytest.mark.parametrize(("personal", "reference"), mostly_long(CASES, 4, 10), ids=IDS)
EVALUATED = pytest.mark.parametrize(("personal", "reference"), mostly_long(CASES, 0, 6, 9), ids=IDS)
UNLIKE = pytest.mark.parametrize(("personal", "reference"), mostly_long(CASES, 4, 10), ids=IDS)
APFL = pytest.mark.parametrize(("personal", "reference"), mostly_long(CASES, 4), ids=IDS)
CLEAR = pytest.mark.parametrize(("personal", "reference"), mostly_long(CASES, 0, 1, 3, 4, 6, 8, 10), ids=IDS)


def flat(tensors: dict[str, Array]) -> Array:
    """The rows of all classes; zeros for what is not there."""
    head = tensors.get("head.weight", np.zeros((1, INPUTS)))
    return np.concatenate([head, tensors["rest.weight"]]).ravel()


def federate(
    path: Path,
    personal: dict[str, Any],
    *inject: str,
    rounds: int,
    resume: bool = False,
    **secure: Any,
) -> tuple[Array, list[Array], list[Any]]:
    """The shared model of four threads, the models of the silos that are left, and summaries."""
    config = configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "personal": personal,
            "secure": secure,
            "failure": {"policy": "shrink", "inject": list(inject)},
        }
    )

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, InRows(), comm=comm, resume=resume)

    results = run_in_threads(len(SIZES), rank, timeout_s=60)
    left = [silo for silo, result in enumerate(results) if result is not None]
    own = [flat(load_file(path / f"silo-{silo:04d}" / "personal.safetensors")) for silo in left]
    return flat(load_file(path / "model.safetensors")), own, [results[silo] for silo in left]


def compare(found: tuple[Array, list[Array]], expected: tuple[Array, list[Array]], bound: float) -> None:
    shared, own = found
    assert np.abs(expected[0]).max() > 0.3
    assert max(np.abs(one - expected[0]).max() for one in expected[1]) > 0.03  # unlike the shared model
    np.testing.assert_allclose(shared, expected[0], rtol=0, atol=bound)
    for mine, theirs in zip(own, expected[1], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=bound)


def bound_of(personal: dict[str, Any], bound: float) -> float:
    """Two gradients 2e-4 apart give a Hessian to about 1e-8."""
    return max(bound, 1e-6) if "difference" in personal else bound


@CLEAR
@LENGTHS
def test_in_the_clear(tmp_path: Path, personal: dict[str, Any], reference: Any, rounds: int) -> None:
    shared, own, _ = federate(tmp_path, personal, rounds=rounds, protocol="plain")
    compare((shared, own), reference(silos(), ALL[:rounds]), bound_of(personal, 1e-9))


@pytest.mark.covering(0)
@UNLIKE
@LENGTHS
def test_masked(tmp_path: Path, personal: dict[str, Any], reference: Any, rounds: int) -> None:
    shared, own, _ = federate(tmp_path, personal, rounds=rounds, protocol="secagg", bits=32)
    compare((shared, own), reference(silos(), ALL[:rounds]), bound_of(personal, 1e-5))


@APFL
@LENGTHS
@pytest.mark.usefixtures(deaths.__name__)
def test_a_silo_dies(tmp_path: Path, personal: dict[str, Any], reference: Any, rounds: int) -> None:
    shared, own, _ = federate(tmp_path, personal, FAULT, rounds=rounds, protocol="plain")
    assert len(own) == 3
    expected, models = reference(silos(), WITHOUT_2[:rounds])
    compare((shared, own), (expected, [models[silo] for silo in (0, 1, 3)]), bound_of(personal, 1e-9))


@pytest.mark.covering(0)
@RESUMED
def test_a_resumed_run_is_the_same_to_the_bit(
    tmp_path: Path, personal: dict[str, Any], reference: Any
) -> None:
    whole = federate(tmp_path / "whole", personal, rounds=4, protocol="plain")
    federate(tmp_path / "parts", personal, rounds=2, protocol="plain")
    resumed = federate(tmp_path / "parts", personal, rounds=4, resume=True, protocol="plain")
    assert np.array_equal(whole[0], resumed[0])
    assert all(np.array_equal(one, other) for one, other in zip(whole[1], resumed[1], strict=True))
    assert len({one.tobytes() for one in whole[1]}) == len(SIZES)  # each silo's own


@pytest.mark.covering(0)
@EVALUATED
def test_metrics_of_personal_models_stand_beside(
    tmp_path: Path, personal: dict[str, Any], reference: Any
) -> None:
    *_, summaries = federate(tmp_path, personal, rounds=6, protocol="secagg")
    metrics = summaries[0]["metrics"]
    if METHODS[personal["name"]].adapts:
        assert metrics["personal/loss"] < metrics["loss"]
        silos_own = summaries[0]["metrics_per_silo"]
        assert all(silo.keys() >= {"loss", "personal/loss"} for silo in silos_own)
        assert any(silo["personal/loss"] < 0.95 * silo["loss"] for silo in silos_own)
    else:
        assert list(metrics) == ["loss"]  # which is of each silo's own model
    assert summaries[0]["personal"]
