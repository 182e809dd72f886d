"""`silofl bench privacy`: a step of distributed DP-SGD beside the same clipped step without noise or masks.

Both take the same Poisson sample of the same records, clip its gradients in the same way and add them up. The
reference sums over silos by `MPI_Allreduce` and steps. The private step is a whole round of a run: keys made
beside training, rounding, noise, masks, the sum, its entry in the log on disk, the server's step, the
new model on every rank, and the epsilon that one of them tells.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.bench.measure import Call, Row, row
from silofl.bench.measure_ranks import interleaved_over_ranks
from silofl.comm.collective_errors import raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.comm.native import NativeReductions
from silofl.comm.protocol import Communicator
from silofl.config import Config
from silofl.crypto.key_file import silo_key
from silofl.crypto.noise_keys import NoiseKeys
from silofl.errors import ConfigError, SiloflError
from silofl.federation.clock import Clock
from silofl.federation.federation import Federation, RunContext, setup
from silofl.federation.privacy.engine import PrivacyEngine
from silofl.federation.privacy.guarantee import plan_for
from silofl.federation.round import run_round
from silofl.federation.start import build_silo
from silofl.privacy.grid import Grid
from silofl.tasks.base import SiloData
from silofl.tasks.classification import Classification
from silofl.tasks.models import mlp
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.flat import FlatModel, as_array
from silofl.training.persons import Persons
from silofl.training.private import PrivateSteps

PLAIN = "clipped step, MPI_Allreduce float32"
GOAL = "<= 1.4"
CLASSES, RATE, LR, NOISE = 10, 0.1, 0.01, 1.0
"""Classes of the task; what of its records a silo samples; the server's step; the noise multiplier."""
RINGS: dict[str, dict[str, Any]] = {
    "private step, 32-bit ring": {"secure": {"bits": 32}},
    "private step, 32-bit ring, rotated": {"secure": {"bits": 32}, "privacy": {"rotate": True}},
    "private step, 16-bit ring, rotated": {"secure": {"bits": 16}},
}
PHASES = {
    "train": "clipped sum",
    "wait": "waiting for the slowest silo",
    "aggregate": "rounding, noise, masks, sum, log",
    "step": "decoding, server's step, allgather",
}
Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Result:
    """The figures; the same on every rank."""

    rows: list[Row]
    notes: list[str]


class Blobs(Classification):
    """Random features and labels for three layers of one width: about `parameters` values, `batch` a step."""

    def __init__(self, parameters: int, batch: int) -> None:
        self._width = max(1, math.isqrt(parameters // 2))
        self._records = max(1, round(batch / RATE))

    def model(self) -> nn.Module:
        """width -> width -> width -> 10."""
        return mlp(self._width, (self._width, self._width), CLASSES)

    def data(self, silo: int, silos: int) -> SiloData:
        """batch / rate records, none held out."""
        rng = np.random.default_rng(silo)
        features = rng.standard_normal((self._records, self._width), np.float32)
        labels = rng.integers(0, CLASSES, self._records)
        return SiloData(TensorDataset(torch.from_numpy(features), torch.from_numpy(labels)))


class Reference:
    """DP-SGD's step up to the noise, as a plain MPI program would take it, from `values` (d,) on."""

    def __init__(
        self, task: Blobs, federation: Federation, keys: NoiseKeys, native: NativeReductions
    ) -> None:
        context, number = federation.context, federation.group.silo_id
        config, silos = context.config, context.silos
        train = task.data(number, silos).train
        self._model = FlatModel(task.model(), torch.float32, torch.device("cpu"))
        self._model.load(federation.values)
        batches = Batches(train, torch.float32, torch.device("cpu"))
        gradients = ClippedGradients(
            task, self._model, batches, clip_norm=config.privacy.clip_norm, clipping="ghost", silo=number
        )
        data = context.silo.data_digest()  # its sampler draws what the federation's does
        self._steps = PrivateSteps(gradients, self._model, Persons(np.arange(len(train))), RATE, keys, data)
        self._expected, self._native = RATE * len(train) * silos, native
        self._total: Tensor = torch.empty_like(self._model.vector)
        self._numbers = iter(range(1, 1_000_000))

    def step(self) -> None:
        """Sample, clip and add up; sum over ranks; descend. Collective."""
        mine, _ = self._steps.sum(next(self._numbers), 0)
        self._native.allreduce(as_array(mine), as_array(self._total))
        self._model.vector.sub_(self._total, alpha=LR / self._expected)

    @property
    def values(self) -> Vector:
        """(d,) as they are now; a view."""
        return as_array(self._model.vector)


class Private:
    """Rounds of a federation, and the seconds of their phases."""

    def __init__(self, federation: Federation, grid: Grid) -> None:
        self.federation, self._grid = federation, grid
        self._clock, self._number = Clock(), 0
        self._phases: list[list[float]] = []

    def step(self) -> None:
        """One round, without evaluation; collective."""
        self._number += 1
        run_round(self.federation, self._number, self._clock, evaluate=False)
        if self.federation.group.comm.rank == 0:
            self.federation.epsilon()  # for the round's line
        taken = self._clock.take()
        self._phases.append([taken[phase] for phase in PHASES])

    def phases(self) -> dict[str, list[float]]:
        """Seconds of each phase in each timed round, of the slowest rank; collective."""
        slowest = self.federation.group.comm.allreduce(np.array(self._phases[1:]), "max")
        return {name: list(slowest[:, place]) for place, name in enumerate(PHASES.values())}

    def drift(self, values: Vector) -> float:
        """Distance from the reference's model, over what the noise of all rounds is expected to make it."""
        silos = self.federation.context.silos
        noise = math.sqrt(self._grid.variance(silos)) * self._grid.step
        records = RATE * self.federation.silo.samples * silos
        expected = LR / records * noise * math.sqrt(self._number * values.size)
        return float(np.linalg.norm(self.federation.values - values)) / expected


def run(comm: Communicator, *, parameters: int, batch: int, repeats: int, directory: Path) -> Result:
    """Measure; collective. Writes below `directory`, and removes what it wrote.

    Args:
        comm: one silo a rank; three at least, for fewer have no secure sum.
        parameters: about as many values has the model.
        batch: records that a silo is expected to sample in a step.
        repeats: turns of the measurement.
        directory: on the disk that logs are flushed to.

    Raises:
        ConfigError: fewer than three ranks, a directory that cannot be written, or no ring is large enough.
        SiloflError: a private model is not the reference's but for the noise.
    """
    if comm.size < 3:
        raise ConfigError(f"-n {comm.size} is too few for a secure sum; give 3 or more", rank=0)
    native = NativeReductions()
    with _folder(comm, directory) as path:
        task = Blobs(parameters, batch)
        rounds, notes = _federations(comm, task, path)
        first = next(iter(rounds.values())).federation
        reference = Reference(task, first, _keys(first), native)
        times = _measure(comm, reference, rounds, native, repeats)
        drifts = {name: one.drift(reference.values) for name, one in rounds.items()}
        with raise_on_all_ranks(comm):
            _refuse_other_models(drifts)
        rows = _rows(times, rounds)
        for one in rounds.values():
            one.federation.close()
    native.free()
    notes.append(
        f"{len(reference.values)} parameters, {batch} of {first.silo.samples} records a silo and step; "
        "a time is that of the slowest rank, and so is a phase's"
    )
    notes += [
        f"{name}: {drift:.3f} of the expected noise from the reference" for name, drift in drifts.items()
    ]
    return Result(rows, notes)


def _measure(
    comm: Communicator,
    reference: Reference,
    rounds: dict[str, Private],
    native: NativeReductions,
    repeats: int,
) -> dict[str, list[float]]:
    vector, out = reference.values.copy(), np.empty_like(reference.values)
    calls: dict[str, Call] = {PLAIN: reference.step}
    calls["  of it, MPI_Allreduce"] = lambda: native.allreduce(vector, out)
    return interleaved_over_ranks(comm, calls | {name: one.step for name, one in rounds.items()}, repeats)


@contextmanager
def _folder(comm: Communicator, directory: Path) -> Iterator[Path]:
    """A folder of this rank's own."""
    with raise_on_all_ranks(comm):
        try:
            folder = tempfile.TemporaryDirectory(prefix="bench-privacy-", dir=directory)
        except OSError as error:
            raise ConfigError(f"--directory {directory} cannot be written: {error.strerror}") from None
    with folder as name:
        yield Path(name)


def _settings(path: Path, ring: dict[str, Any]) -> Config:
    secure = {"protocol": "secagg", **ring["secure"]}
    privacy = {"unit": "example", "noise_multiplier": NOISE, "sample_rate": RATE, **ring.get("privacy", {})}
    return configuration.parse(
        {
            "run": {"display": "none"},
            "strategy": {"name": "fedsgd", "lr": LR},
            "secure": secure,
            "privacy": privacy,
            "checkpoint": {"key_file": str(path / "silo-{silo}.key")},
        }
    )


def _federations(comm: Communicator, task: Blobs, path: Path) -> tuple[dict[str, Private], list[str]]:
    """One for each ring that is large enough; what is wrong with the others."""
    rounds: dict[str, Private] = {}
    notes: list[str] = []
    for name, ring in RINGS.items():
        settings = _settings(path, ring)
        group = ElasticGroup(comm)
        silo = build_silo(group, settings, task, UserCode(group.silo_id), comm.size, comm.local_rank)
        plan = plan_for(settings, silo.model.size, silo.samples * comm.size, comm.size, comm.size)
        try:
            grid = plan.grid(NOISE)
        except ConfigError as error:
            if len(notes) == len(RINGS) - 1:
                raise
            notes.append(f"no {name}: {error}")
            continue
        federation = setup(RunContext.of(group, settings, silo, comm.size, path / f"{len(rounds)}"))
        if rounds:
            _begin_as(next(iter(rounds.values())).federation, federation)
        federation.begin(0)
        rounds[name] = Private(federation, grid)
    return rounds, notes


def _begin_as(first: Federation, other: Federation) -> None:
    """Have another federation begin with the first one's model, and draw its samples; collective."""
    other.values[:] = first.values
    other.topology.aggregator = _privacy(other).restore(_privacy(first).state(), member=True)


def _privacy(federation: Federation) -> PrivacyEngine:
    assert federation.privacy is not None, "[privacy] is set"
    return federation.privacy


def _keys(federation: Federation) -> NoiseKeys:
    """Those that the silo draws its samples with."""
    number, nonce = federation.group.silo_id, _privacy(federation).state()["parameters"]["nonce"]
    own = silo_key(federation.context.config.checkpoint.key_file, number)
    run = bytes.fromhex(str(federation.context.trust.run))
    return NoiseKeys(own, bytes.fromhex(nonce), number, run=run)


def _refuse_other_models(drifts: dict[str, float]) -> None:
    for name, drift in drifts.items():
        if not 0.5 < drift < 2:
            raise SiloflError(f"{name}: {drift:.3g} times as far from the reference as its noise")


def _rows(times: dict[str, list[float]], rounds: dict[str, Private]) -> list[Row]:
    rows = []
    for name, seconds in times.items():
        rows.append(row(name, seconds, PLAIN, times[PLAIN], 0.0, GOAL if name in rounds else ""))
        phases = rounds[name].phases() if name in rounds else {}
        rows += [
            row(f"  of it, {phase}", part, PLAIN, times[PLAIN], 0.0, "") for phase, part in phases.items()
        ]
    return rows
