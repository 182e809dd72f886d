"""Federations on digits as `privacy_attacks_study.py` attacks them: what others see of a silo, and the sum.

Silos are threads of one process that send messages, as ranks on as many hosts do.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
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
    "tanh": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, CLASSES)),
}
Numbers = NDArray[np.int64]


@cache
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
        values: (rounds + 1, P), all parameters before the first round and after each.
        noise_multiplier: the ledger's, 0 without [privacy].
    """

    before: nn.Module
    after: nn.Module
    sent: list[NDArray[Any]]
    summary: dict[str, Any]
    values: NDArray[np.float64]
    noise_multiplier: float

    def step(self, lr: float) -> dict[str, Tensor]:
        """The mean gradient of a run of one round of FedSGD."""
        before, after = self.values[0], self.values[-1]
        return by_name(self.before, (before - after) / lr)

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
        rounds = given["run"]["rounds"]
        given["checkpoint"] = {"every": 1, "keep": max(2, rounds), "key_file": f"{folder}/{{silo}}.key"}
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
        after, path = deepcopy(before), Path(folder) / "run"
        after.load_state_dict(load_file(path / "model.safetensors"))
        opened = [_opened(path / "checkpoints" / f"round-{number + 1:06}", silos) for number in range(rounds)]
        multiplier = _noise_multiplier(path) if "privacy" in given else 0.0
    first_values = torch.cat([one.detach().flatten() for one in before.parameters()]).double().numpy()
    values = np.stack([first_values, *opened])
    return Seen(before, after, [sent for _, sent in ends], ends[0][0], values, multiplier)


def _opened(path: Path, silos: int) -> NDArray[np.float64]:
    """The model after a round, (P,), of the slices that silos serve."""
    slices = [
        load_file(path / f"silo-{silo:04}.safetensors")["/server/slices/model"] for silo in range(silos)
    ]
    return torch.cat(slices).double().numpy()


def _noise_multiplier(path: Path) -> float:
    """Of the first release in silo 0's log."""
    line = (path / "silo-0000" / "privacy.jsonl").read_text().splitlines()[1]
    [[release, _], *_] = json.loads(line)["releases"]
    return float(json.loads(release)["noise_multiplier"])
