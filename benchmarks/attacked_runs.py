"""Federations on digits as `privacy_attacks_study.py` attacks them: what others see of a silo, and the sum.

Silos are threads of one process that send messages, as ranks on as many hosts do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.federation.first_models import drawn
from silofl.federation.loop import train
from silofl.privacy_attacks.inversion.base import by_name
from silofl.privacy_attacks.wire_tap import WireTap
from silofl.tasks import packaged
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.models import cnn, mlp
from silofl.tasks.user_code import UserCode

SHAPE, CLASSES, LONGEST_S = (1, 8, 8), 10, 600.0
MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: mlp(64, [64], CLASSES),
    "cnn": lambda: cnn(1, 8, 8, CLASSES),
}
Numbers = NDArray[np.int64]


def digits() -> tuple[NDArray[np.float64], Numbers]:
    """All digits (1797, 1, 8, 8), from 0 to 1, and their labels."""
    pixels, labels = packaged.read("digits.csv.gz")
    return pixels.reshape(-1, *SHAPE) / 16.0, labels


class Dealt(Classification):
    """Digits that are dealt out by number; none is held out.

    `planted` are weights that the model begins with in the place of drawn ones, by name.
    """

    shape = SHAPE
    classes = tuple(map(str, range(CLASSES)))

    def __init__(
        self, model: str, dealt: Sequence[Numbers], planted: Mapping[str, Tensor] | None = None
    ) -> None:
        self._model, self._dealt, self._planted = model, dealt, dict(planted or {})

    def model(self) -> nn.Module:
        made = MODELS[self._model]()
        made.load_state_dict(made.state_dict() | self._planted)
        return made

    def data(self, silo: int, silos: int) -> SiloData:
        images, labels = digits()
        own = self._dealt[silo]
        x, y = torch.from_numpy(images[own].astype(np.float32)), torch.from_numpy(labels[own])
        return SiloData(TensorDataset(x, y), None)


@dataclass(frozen=True)
class Seen:
    """What there is to attack after a run.

    Attributes:
        before, after: the first model and the last, which all have.
        sent: by silo, what it gave to others for the last sum of updates, (P,): floats, or words.
        summary: of the run.
    """

    before: nn.Module
    after: nn.Module
    sent: list[NDArray[Any]]
    summary: dict[str, Any]

    def step(self, lr: float) -> dict[str, Tensor]:
        """The mean gradient of a run of one round of FedSGD."""
        ends = (
            torch.cat([one.detach().double().flatten() for one in model.parameters()])
            for model in (self.before, self.after)
        )
        before, after = ends
        return by_name(self.before, ((before - after) / lr).numpy())

    def sent_by(self, silo: int, factor: float) -> dict[str, Tensor]:
        """What a silo gave away, times a factor, read as a gradient; words as whole numbers with a sign."""
        values = self.sent[silo]
        if values.dtype.kind == "u":
            values = values.view(f"i{values.itemsize}")
        return by_name(self.before, values.astype(np.float64) * factor)


def federate(
    task: Dealt, silos: int, seed: int, tables: Mapping[str, Any], *, first: Dealt | None = None
) -> Seen:
    """Train; the run's files are removed afterwards. `first` is silo 0's task, where it has another."""
    with tempfile.TemporaryDirectory() as folder:
        given = {name: dict(table) for name, table in tables.items()}
        given["run"] = {"dir": f"{folder}/run", "display": "none", "seed": seed} | given.get("run", {})
        given["checkpoint"] = {"every": 0, "key_file": f"{folder}/{{silo}}.key"}
        config = configuration.parse(given)
        before = drawn(first or task, seed, UserCode(0), 0)
        size = sum(one.numel() for one in before.parameters())

        def rank(comm: Communicator) -> tuple[dict[str, Any], NDArray[Any]]:
            torch.set_num_threads(1)
            tapped = WireTap(comm)
            own = task if first is None or comm.rank else first
            summary = train(config, own, comm=tapped)  # type: ignore[arg-type]
            return summary, tapped.vectors(size)[-1]

        ends = run_in_threads(silos, rank, timeout_s=LONGEST_S, host_of=lambda number: number)
        after = deepcopy(before)
        after.load_state_dict(load_file(Path(folder) / "run" / "model.safetensors"))
    return Seen(before, after, [sent for _, sent in ends], ends[0][0])
