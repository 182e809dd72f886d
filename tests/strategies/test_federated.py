"""Whole federations of threads against the plain references: in the clear, masked, and with deaths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator, SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.tasks.base import SiloData
from tests.campaigns import mostly_long
from tests.strategies import naive
from tests.strategies.naive import ROUNDS, SIZES, Array

LR, STEPS = 0.3, 5
FAULT = "kill silo 2 round 5 at train"
WITHOUT_2 = [(0, 1, 2, 3)] * 4 + [(0, 1, 3)] * (ROUNDS - 4)
LENGTHS = pytest.mark.parametrize("rounds", mostly_long([8, ROUNDS], 0))
"""In eight rounds all that a strategy remembers has come back several times."""


class Scores(nn.Linear):
    """A linear model whose output is that of a module of its own, which a strategy may name."""

    def __init__(self) -> None:
        super().__init__(naive.INPUTS, naive.CLASSES, bias=False)
        nn.init.zeros_(self.weight)
        self.scores = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.scores(super().forward(x))
        return found


class Softmax:
    """The silos of `naive`, as a task: from zero, nothing random."""

    def model(self) -> nn.Module:
        return Scores()

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = (torch.from_numpy(values) for values in naive.silos()[silo])
        return SiloData(TensorDataset(x, y))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return {}


def _adaptive(name: str) -> tuple[dict[str, Any], Any]:
    keys = {"beta1": 0.9, "tau": 0.1, "initial": 0.1}
    more = {} if name == "fedadagrad" else {"beta2": 0.95}

    def reference(data: Any, here: Any) -> Array:
        return naive.adaptive(data, here, LR, STEPS, name, eta=0.2, beta2=0.95, **keys)

    return {"name": name, "lr": 0.2, **keys, **more}, reference


CASES: list[tuple[dict[str, Any], Any]] = [
    ({"name": "fedavg"}, lambda data, here: naive.fedavg(data, here, LR, STEPS)),
    (
        {"name": "fedavg", "lr": 0.7, "momentum": 0.5},
        lambda data, here: naive.fedavg(data, here, LR, STEPS, server_lr=0.7, momentum=0.5),
    ),
    ({"name": "fedsgd", "lr": 0.3, "momentum": 0.5}, lambda data, here: naive.fedsgd(data, here, 0.3, 0.5)),
    ({"name": "fedprox", "mu": 1.0}, lambda data, here: naive.fedprox(data, here, LR, STEPS, 1.0)),
    ({"name": "scaffold"}, lambda data, here: naive.scaffold(data, here, LR, STEPS)[0]),
    ({"name": "scaffold", "lr": 0.6}, lambda data, here: naive.scaffold(data, here, LR, STEPS, 0.6)[0]),
    (
        {"name": "scaffold", "option": "I"},
        lambda data, here: naive.scaffold(data, here, LR, STEPS, option="I")[0],
    ),
    ({"name": "qfedavg"}, lambda data, here: naive.qfedavg(data, here, LR, STEPS, 1.0, 1 / LR)),
    (
        {"name": "moon", "layer": "scores", "mu": 0.1},
        lambda data, here: naive.moon(data, here, LR, STEPS, 0.1, 0.5)[0],
    ),
    ({"name": "feddyn", "alpha": 1.0}, lambda data, here: naive.feddyn(data, here, LR, STEPS, 1.0)[0]),
    ({"name": "fedexp", "epsilon": 0.1}, lambda data, here: naive.fedexp(data, here, LR, STEPS, 0.1)[0]),
    ({"name": "fednova", "lr": 0.9}, lambda data, here: naive.fednova(data, here, LR, [STEPS] * 4, 0.0, 0.9)),
    (
        {"name": "fedavgm"},
        lambda data, here: naive.fedavg(data, here, LR, STEPS, server_lr=1.0, momentum=0.9),
    ),
    ({"name": "diloco"}, lambda data, here: naive.diloco(data, here, LR, STEPS, 0.7, 0.9)),
    *(_adaptive(name) for name in ("fedadagrad", "fedadam", "fedyogi")),
]
IDS = [str(table) for table, _ in CASES]
EVERY = pytest.mark.parametrize(("strategy", "reference"), CASES, ids=IDS)
UNLIKE = pytest.mark.parametrize(("strategy", "reference"), mostly_long(CASES, 1, 5, 7, 9), ids=IDS)
"""In every run those that differ in what they send and keep: the secure sum is the same for all."""


def federate(
    path: Path,
    strategy: dict[str, Any],
    *inject: str,
    rounds: int,
    run: dict[str, Any] | None = None,
    **secure: Any,
) -> Array:
    """The model that the survivors of a run of four threads have."""
    config = configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds} | (run or {}),
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "strategy": strategy,
            "secure": secure,
            "failure": {"policy": "shrink", "inject": list(inject)},
        }
    )

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        return train(config, Softmax(), comm=comm)

    results = run_in_threads(len(SIZES), rank, timeout_s=60)
    assert [silo for silo, result in enumerate(results) if result is None] == [2] * len(inject)
    assert len({result["model_sha256"] for result in results if result is not None}) == 1
    weight: Array = load_file(path / "model.safetensors")["weight"].ravel()
    return weight


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An injected `kill` ends a thread as SIGKILL ends a process."""

    def die() -> None:
        raise SimulatedCrash

    monkeypatch.setitem(FaultInjector.__init__.__kwdefaults__, "die", die)  # type: ignore[misc]


def compare(model: Array, expected: Array, bound: float, least: float = 0.15) -> None:
    assert np.abs(expected).max() > least
    np.testing.assert_allclose(model, expected, rtol=0, atol=bound)


@EVERY
@LENGTHS
def test_in_the_clear(tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int) -> None:
    model = federate(tmp_path, strategy, rounds=rounds, protocol="plain")
    compare(model, reference(naive.silos(), naive.ALL[:rounds]), 1e-9)


@pytest.mark.covering(0)
@UNLIKE
@LENGTHS
@pytest.mark.parametrize(("bits", "bound"), mostly_long([(32, 1e-5), (16, 1e-2)], 0))
def test_masked(
    tmp_path: Path, strategy: dict[str, Any], reference: Any, rounds: int, bits: int, bound: float
) -> None:
    model = federate(tmp_path, strategy, rounds=rounds, protocol="secagg", bits=bits)
    compare(model, reference(naive.silos(), naive.ALL[:rounds]), bound)


@pytest.mark.covering(0)
@UNLIKE
@LENGTHS
@pytest.mark.usefixtures("deaths")
@pytest.mark.parametrize(
    ("secure", "bound"),
    mostly_long([({"protocol": "plain"}, 1e-9), ({"protocol": "secagg", "bits": 32}, 1e-5)], 1),
)
def test_a_silo_dies(
    tmp_path: Path,
    strategy: dict[str, Any],
    reference: Any,
    rounds: int,
    secure: dict[str, Any],
    bound: float,
) -> None:
    """What it has of its own is lost with it; all others go on, and c stays a mean over all four."""
    model = federate(tmp_path, strategy, FAULT, rounds=rounds, **secure)
    compare(model, reference(naive.silos(), WITHOUT_2[:rounds]), bound)
