"""A naive federation in one process: no keys, no messages, no slices. What the real one is held against.

    config = configuration.load("run.toml")
    rounds = attendance(records of metrics.jsonl)
    federation = Reference(config, silos)
    vectors = [federation.round(number, one).tobytes() for number, one in enumerate(rounds, 1)]
    federation.model_sha256()  # what summary.json says

Silos train with the code under test; how their updates become the next global model is written anew here:
a range for each tensor, fixed point, an integer sum, weights, FedAvg with momentum, all over the whole
vector; buffers are averaged as exact fractions. Nearest rounding only.

Silos that are threads share torch's one generator while they train: compare models that draw nothing then, or
processes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.config import Config
from silofl.federation.local_work import Fitted, RoundStart
from silofl.federation.results import card_of
from silofl.federation.rundir import RunDirectory
from silofl.federation.silo import Silo
from silofl.strategies.registry import build
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attendance:
    """The silos of a round."""

    present: tuple[int, ...]
    """The silos that the round began with: those that the aggregator was made for."""
    summed: tuple[int, ...]
    """The silos whose updates are in the sum: `survivors` of metrics.jsonl."""
    ranged: tuple[int, ...] | None = None
    """The silos that agreed on ranges, where they are agreed; None: all that were present. A silo that fails
    before `collect first` is not among them."""
    restored: dict[int, int] = field(default_factory=dict)
    """Silos that rejoined before this round, with the round whose own state they took up; 0: none."""


def attendance(records: Iterable[dict[str, Any]]) -> list[Attendance]:
    """That of every round, from the lines of metrics.jsonl of a run that was not resumed.

    A silo that failed in round r rejoins with what it had committed for certain, of round r - 2. The ranges
    of a round count all that were present: where they are agreed, see `Attendance.ranged`.
    """
    failed_in = dict[int, int]()
    rounds = []
    for record in records:
        restored = {silo: max(failed_in[silo] - 2, 0) for silo in record["rejoined"]}
        rounds.append(
            Attendance(tuple(record["began"]), tuple(record["survivors"]), ranged=None, restored=restored)
        )
        failed_in |= dict.fromkeys(record["failed"], record["round"])
    return rounds


class Reference:
    """All silos, and a server that has everything in whole.

    Attributes:
        vector: (d,) the global model.
    """

    def __init__(self, config: Config, silos: int, task: Task | None = None) -> None:
        assert config.strategy.name == "fedavg"
        assert config.secure.rounding == "nearest"
        self._config, self._threads = config, torch.get_num_threads()
        self._task = tasks.build(config) if task is None else task
        self._protocol = config.secure.protocol
        if self._protocol == "auto":
            self._protocol = "plain" if silos < 3 and not config.secure.allow_two else "secagg"
        self._strategy = build(config.strategy)
        self._silos = [self._silo(number, silos) for number in range(silos)]
        self._states: list[dict[int, dict[str, Any]]] = [{0: self._state(silo)} for silo in self._silos]
        self.vector: Vector = self._silos[0].initial()
        self._velocity = np.zeros(self._silos[0].model.trainable, self.vector.dtype)

    def _silo(self, number: int, silos: int) -> Silo:
        return Silo(self._config, self._task, number, silos, "cpu")

    def _state(self, silo: Silo) -> dict[str, Any]:
        return copy.deepcopy(silo.state())

    def rounds(self, every: Iterable[Attendance]) -> list[bytes]:
        """The global model's bytes after each round."""
        return [self.round(number, one).tobytes() for number, one in enumerate(every, 1)]

    def round(self, number: int, who: Attendance) -> Vector:
        """One round; the new global model."""
        for silo, state_of in who.restored.items():
            self._silos[silo].restore(copy.deepcopy(self._states[silo][state_of]))
        ranged = who.present if who.ranged is None else who.ranged
        fitted = {silo: self._fit(silo, number) for silo in sorted({*ranged, *who.summed})}
        sent = {silo: dict(one.contribution.vectors) for silo, one in fitted.items()}
        self._step(self._mean_update(sent, who, ranged), self._mean_buffers(sent, who))
        for silo in who.present:
            self._states[silo][number] = self._state(self._silos[silo])
        return self.vector

    def _fit(self, silo: int, number: int) -> Fitted:
        count = len(self._velocity)
        torch.set_num_threads(1)
        try:
            shared, buffers = {"model": self.vector[:count]}, self.vector[count:]
            return copy.deepcopy(self._silos[silo].fit(RoundStart(shared, buffers, number, self._strategy)))
        finally:
            torch.set_num_threads(self._threads)

    def _samples(self, who: tuple[int, ...]) -> dict[int, int]:
        return {silo: self._silos[silo].samples for silo in who}

    def _shares(self, who: Attendance) -> dict[int, float]:
        """Each silo's part of all samples in a masked sum, on a grid that all silos share."""
        samples, precision = self._samples(who.present), 2 ** (40 + math.ceil(math.log2(len(who.present))))
        total = sum(samples.values())
        return {silo: round(count / total * precision) / precision for silo, count in samples.items()}

    def _part(self, who: Attendance) -> float:
        """What the silos in a masked sum have of all samples, as precisely as the sum's tail tells it."""
        shares = self._shares(who)
        return sum(shares[silo] for silo in who.summed)

    def _plain(self, vectors: dict[int, Vector], who: Attendance) -> Vector:
        """Products are rounded to the vector's type, then added up in float64 in the order of silos."""
        kind, samples = self.vector.dtype, self._samples(who.summed)
        total = np.zeros(len(vectors[who.summed[0]]))
        for silo in who.summed:
            share = samples[silo] / sum(samples.values())
            total += (vectors[silo].astype(np.float64) * share).astype(kind)
        return np.asarray(total, kind)

    def _mean_update(
        self, sent: dict[int, dict[str, Vector]], who: Attendance, ranged: tuple[int, ...]
    ) -> Vector:
        """Weighted mean of the updates in the sum, tensor by tensor; weights are sample counts."""
        updates = {silo: vectors["update"] for silo, vectors in sent.items()}
        if self._protocol == "plain":
            return self._plain(updates, who)
        config, shares, part = self._config.secure, self._shares(who), self._part(who)
        mean, start = np.empty(len(self._velocity), self.vector.dtype), 0
        for end in map(int, self._silos[0].model.tensor_ends):
            tensors = {silo: update[start:end] for silo, update in updates.items()}
            largest = max(float(np.abs(tensors[silo]).max(initial=0.0)) for silo in ranged)
            value_range = config.range or smallest_power(largest)
            unit, words = unit_of(config.bits, len(who.present)), np.zeros(end - start, np.int64)
            for silo in who.summed:
                words += words_of(tensors[silo], shares[silo], unit, value_range, config.bits)
            assert np.abs(words).max(initial=0) < 1 << (config.bits - 1)  # nothing wrapped
            mean[start:end] = words * np.float64(value_range / unit / part)
            start = end
        assert start == len(mean)
        return mean

    def _mean_buffers(self, sent: dict[int, dict[str, Vector]], who: Attendance) -> Vector:
        """Weighted mean of the changes of buffers; under a secure sum a fraction, rounded in the end."""
        if len(self.vector) == len(self._velocity):
            return np.empty(0, self.vector.dtype)
        changes = {silo: vectors["buffers"] for silo, vectors in sent.items()}
        if self._protocol == "plain":
            return self._plain(changes, who)
        shares, part, sums = self._shares(who), self._part(who), []
        for place in range(len(self.vector) - len(self._velocity)):
            products = [shares[silo] * float(changes[silo][place]) for silo in who.summed]
            sums.append(float(sum(map(Fraction, products), Fraction(0))))
        return np.asarray(np.array(sums) / part, self.vector.dtype)

    def _step(self, change: Vector, buffers: Vector) -> None:
        """FedAvg with momentum; buffers, which lie behind the parameters, are averaged."""
        strategy, number = self._config.strategy, self.vector.dtype.type
        new, count = self.vector.copy(), len(self._velocity)
        if strategy.momentum:
            change = self._velocity = self._velocity * number(strategy.momentum) + change
        new[:count] += change * number(strategy.lr)
        new[count:] += buffers
        self.vector = new

    def model_sha256(self) -> str:
        """The SHA-256 of the `model.safetensors` that a run with this global model leaves."""
        arrays = self._silos[0].export(self.vector)
        card = card_of(self._config, self._silos[0])
        with TemporaryDirectory() as folder:
            return RunDirectory(Path(folder)).write_model(arrays, card.metadata())


def unit_of(bits: int, silos: int) -> float:
    """Ring units at the end of the range: rounding may move the sum by half a unit for each silo."""
    return ((2 ** (bits - 1) - 1) - silos / 2) * (1 - 2.0**-21)


def words_of(x: Vector, share: float, unit: float, value_range: float, bits: int) -> NDArray[np.int64]:
    """round(share * unit / range * x), limited, in float32 for float32 values in words up to 16 bits."""
    kind = np.float32 if bits <= 16 and x.dtype == np.float32 else np.float64
    limit = math.floor(share * unit + 0.5)
    products = x.astype(kind) * np.array(share * unit / value_range).astype(kind)
    words = np.rint(products).astype(np.int64)
    limited: NDArray[np.int64] = np.clip(words, -limit, limit)
    return limited


def smallest_power(magnitude: float) -> float:
    """The smallest power of two that is no less, and no less than 2^-64."""
    power: float = 2.0**-64
    while power < magnitude:
        power *= 2
    return power
