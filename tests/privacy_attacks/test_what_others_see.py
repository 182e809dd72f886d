"""Runs of one round: a silo's only example from what it sends in the clear, and not from masked words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.first_models import drawn
from silofl.federation.loop import train
from silofl.privacy_attacks.inversion.base import Public, by_name
from silofl.privacy_attacks.inversion.first_layer import FirstLayer
from silofl.privacy_attacks.wire_tap import WireTap
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.models import mlp
from silofl.tasks.user_code import UserCode

SILOS, SHAPE, CLASSES = 3, (1, 6, 6), 4
PRIVACY = {"unit": "example", "place": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sample_rate": 1.0}


class OneEach(Classification):
    """One example at each silo."""

    classes = tuple(map(str, range(CLASSES)))

    def model(self) -> nn.Module:
        return mlp(36, [8], CLASSES)

    def data(self, silo: int, silos: int) -> SiloData:
        x = np.random.default_rng(silo).random((1, *SHAPE)).astype(np.float32)
        return SiloData(TensorDataset(torch.from_numpy(x), torch.tensor([silo])), None)


def sent(path: Path, **tables: Any) -> tuple[nn.Module, list[Any]]:
    """The first model, and by silo what goes out for the round's sum."""
    given = {"run": {"dir": str(path / "run"), "display": "none", "rounds": 1}, "checkpoint": {"every": 0}}
    config, task = configuration.parse(given | tables), OneEach()
    module = drawn(task, config.run.seed, UserCode(0), 0)
    size = sum(one.numel() for one in module.parameters())

    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        tapped = WireTap(comm)
        train(config, task, comm=tapped)  # type: ignore[arg-type]
        return tapped.vectors(size)[-1]

    return module, run_in_threads(SILOS, rank, host_of=lambda number: number)


@pytest.mark.federations
@pytest.mark.parametrize("protocol", ["plain", "secagg", "plain, DP"])
def test_a_silos_only_example_is_in_what_it_sends_in_the_clear_alone(tmp_path: Path, protocol: str) -> None:
    strategy, train_, privacy = {"name": "fedsgd"}, {"full_batch": True}, {}
    if protocol == "plain, DP":  # the silo's own noise on its own step
        strategy, train_, privacy = {}, {"steps": 1}, PRIVACY
    secure = {"protocol": protocol.partition(",")[0]}
    module, rows = sent(tmp_path, strategy=strategy, train=train_, secure=secure, privacy=privacy)
    errors = []
    for silo, row in enumerate(rows):
        values = row.view(np.int32 if row.itemsize == 4 else np.int16) if row.dtype.kind == "u" else row
        gradient = by_name(module, values.astype(np.float64))
        found = FirstLayer().examples(gradient, Public(module, SHAPE, CLASSES), torch.Generator())
        [truth] = OneEach().data(silo, SILOS).train[0][0].numpy()
        errors.append(float(np.abs(found.examples[0, 0] - truth).max()))
    if protocol == "plain":
        assert max(errors) < 1e-4
    else:
        assert min(errors) > 0.3
