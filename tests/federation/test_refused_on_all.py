"""What cannot be summed is refused by all ranks together: of one alone it would end the job by force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError, MismatchError
from silofl.federation.loop import train
from tests.federation.test_traffic import WithoutBuffers, settings
from tests.federation.threads import Normalized


@pytest.mark.parametrize(
    ("silos", "secure", "word"),
    [
        (1, {"protocol": "secagg"}, "over 1 hides nothing"),
        (2, {"protocol": "secagg"}, "over 2 hides nothing"),
        (4, {"protocol": "secagg", "threshold": 2}, "must be more than half of 4 silos"),
        (4, {"protocol": "additive", "threshold": 2}, "must be more than half of 4 silos"),
        (3, {"protocol": "secagg", "threshold": 4}, "must be more than half of 3 silos"),
        (3, {"protocol": "additive", "committee": 5}, "is more than the 3 silos there are"),
    ],
)
def test_what_cannot_be_summed(tmp_path: Path, silos: int, secure: dict[str, Any], word: str) -> None:
    config = settings(tmp_path, WithoutBuffers, secure=secure, failure={"policy": "abort"})

    def rank(comm: Communicator) -> Any:
        try:
            return train(config, comm=comm)
        except ConfigError as error:
            return str(error), error.rank

    ends = run_in_threads(silos, rank, timeout_s=30)
    assert all(word in sentence and number == 0 for sentence, number in ends)


class Shuffled(Normalized):
    """Silo 2 draws another constant than the others, from a generator that is not seeded."""

    def __init__(self, silo: int, register: Any) -> None:
        values = np.random.default_rng(silo == 2).permutation(8)
        self._add = lambda module: register(module, torch.from_numpy(values))

    def model(self) -> nn.Module:
        module = super().model()
        self._add(module[1])
        return module


class Otherwise(Normalized):
    """Silo 1 has its layers in another order, as where a set or a folder's listing decides it."""

    def __init__(self, silo: int) -> None:
        self._silo = silo

    def model(self) -> nn.Module:
        module = super().model()
        for name in ("left", "right") if self._silo != 1 else ("right", "left"):
            module.add_module(name, nn.Linear(10, 10))
        return module


def test_the_first_tensor_that_is_another_is_named(tmp_path: Path) -> None:
    def rank(comm: Communicator) -> Any:
        try:
            return train(settings(tmp_path, Normalized), Otherwise(comm.rank), comm=comm)
        except MismatchError as error:
            return str(error), error.rank

    ends = run_in_threads(3, rank, timeout_s=30)
    first = "first right.weight of shape (10, 10) here, left.weight of shape (10, 10) there"
    assert all(first in said and number == 1 for said, number in ends)


def integers(module: nn.Module, values: Tensor) -> None:
    module.register_buffer("order", values)


def booleans(module: nn.Module, values: Tensor) -> None:
    module.register_buffer("order", values > 3)


def frozen(module: nn.Module, values: Tensor) -> None:
    module.register_parameter("order", nn.Parameter(values.float(), requires_grad=False))


@pytest.mark.parametrize("register", [integers, booleans, frozen], ids=lambda f: f.__name__)
def test_constants_of_the_model_that_differ_are_named(tmp_path: Path, register: Any) -> None:
    config = settings(tmp_path, Normalized)

    def rank(comm: Communicator) -> Any:
        try:
            return train(config, Shuffled(comm.rank, register), comm=comm)
        except MismatchError as error:
            return str(error), error.rank

    ends = run_in_threads(3, rank, timeout_s=30)
    assert all("1.order of the model has other values here than on rank 0" in said for said, _ in ends)
    assert {number for _, number in ends} == {2}
