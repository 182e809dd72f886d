"""A naive federation in one process: no keys, no messages, no slices. What the real one is held against.

    config = configuration.load("run.toml")
    rounds = attendance(records of metrics.jsonl)
    federation = Reference(config, silos)
    vectors = [federation.round(number, one).tobytes() for number, one in enumerate(rounds, 1)]
    federation.model_sha256()  # what summary.json says

Silos train with the code under test; how their updates become the next global model is written anew here:
fixed point, an integer sum, weights, FedAvg with momentum, all over the whole vector. Nearest rounding only.

Silos that are threads share torch's one generator while they train: compare models that draw nothing then, or
processes.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save

from silofl.config import Config
from silofl.federation.silo import Silo
from silofl.tasks import registry as tasks
from silofl.tasks.base import Task

Vector = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Attendance:
    """Who took part in a round."""

    present: tuple[int, ...]
    """The silos that the round began with: those that the aggregator was made for."""
    summed: tuple[int, ...]
    """The silos whose updates are in the sum: `survivors` of metrics.jsonl."""
    ranged: tuple[int, ...] | None = None
    """The silos that agreed on the range, where it is agreed; None: all that were present. Whoever dies
    before `collect first` is not among them."""
    restored: dict[int, int] = field(default_factory=dict)
    """Silos that came back before this round, with the round whose own state they took up; 0: none."""


def attendance(records: Iterable[dict[str, Any]]) -> list[Attendance]:
    """That of every round, from the lines of metrics.jsonl of a run that was not resumed.

    A silo that was lost in round r comes back with what it had committed for certain, of round r - 2. The
    range of a round counts all that were present: where it is agreed, see `Attendance.ranged`.
    """
    lost_in = dict[int, int]()
    rounds = []
    for record in records:
        restored = {silo: max(lost_in[silo] - 2, 0) for silo in record["returned"]}
        rounds.append(
            Attendance(tuple(record["began"]), tuple(record["survivors"]), ranged=None, restored=restored)
        )
        lost_in |= dict.fromkeys(record["lost"], record["round"])
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
        updates = {silo: self._fit(silo, number) for silo in sorted({*ranged, *who.summed})}
        mean = self._mean(updates, who, ranged)
        self._step(mean)
        for silo in who.present:
            self._states[silo][number] = self._state(self._silos[silo])
        return self.vector

    def _fit(self, silo: int, number: int) -> Vector:
        torch.set_num_threads(1)
        try:
            update, _ = self._silos[silo].fit(self.vector, number, "delta")
        finally:
            torch.set_num_threads(self._threads)
        return update.copy()

    def _mean(self, updates: dict[int, Vector], who: Attendance, ranged: tuple[int, ...]) -> Vector:
        """Weighted mean of the updates in the sum; weights are sample counts."""
        config, kind = self._config.secure, self.vector.dtype
        samples = {silo: self._silos[silo].samples for silo in who.present}
        if self._protocol == "plain":  # products are rounded to the update's type, then added up in float64
            total = np.zeros(len(self.vector))
            for silo in who.summed:
                share = samples[silo] / sum(samples[one] for one in who.summed)
                total += (updates[silo].astype(np.float64) * share).astype(kind)
            return np.asarray(total, kind)
        shares = {silo: count / sum(samples.values()) for silo, count in samples.items()}
        value_range = config.range or smallest_power(max(np.abs(updates[silo]).max() for silo in ranged))
        scale = scale_of(config.bits, value_range, len(who.present))
        words = np.zeros(len(self.vector), np.int64)
        for silo in who.summed:
            words += words_of(updates[silo], shares[silo], scale, value_range, config.bits)
        assert np.abs(words).max() < 1 << (config.bits - 1)  # nothing wrapped
        step = 1.0 / scale
        if self._protocol == "secagg":
            precision = 2 ** (40 + math.ceil(math.log2(len(who.present))))
            step *= 1.0 / (sum(round(shares[silo] * precision) for silo in who.summed) / precision)
        return np.asarray(words * np.float64(step), kind)

    def _step(self, mean: Vector) -> None:
        """FedAvg with momentum; buffers, which lie behind the parameters, are averaged."""
        strategy, number = self._config.strategy, self.vector.dtype.type
        new, count = self.vector.copy(), len(self._velocity)
        change = mean[:count]
        if strategy.momentum:
            change = self._velocity = self._velocity * number(strategy.momentum) + change
        new[:count] += change * number(strategy.lr)
        new[count:] += mean[count:]
        self.vector = new

    def model_sha256(self) -> str:
        """The SHA-256 of the `model.safetensors` that a run with this global model leaves."""
        arrays = self._silos[0].export(self.vector)
        return hashlib.sha256(save(dict(sorted(arrays.items())), {})).hexdigest()


def scale_of(bits: int, value_range: float, silos: int) -> float:
    """Ring units per unit of a weighted value: rounding may move the sum by half a unit for each silo."""
    return ((2 ** (bits - 1) - 1) - silos / 2) * (1 - 2.0**-21) / value_range


def words_of(x: Vector, share: float, scale: float, value_range: float, bits: int) -> NDArray[np.int64]:
    """round(share * scale * x), limited, in float32 for float32 values in words up to 16 bits."""
    kind = np.float32 if bits <= 16 and x.dtype == np.float32 else np.float64
    limit = max(1, math.floor(share * value_range * scale + 0.5))
    products = x.astype(kind) * np.array(share * scale).astype(kind)
    words = np.rint(products).astype(np.int64)
    limited: NDArray[np.int64] = np.clip(words, -limit, limit)
    return limited


def smallest_power(magnitude: float) -> float:
    """The smallest power of two that is no less, and no less than 2^-64."""
    power: float = 2.0**-64
    while power < magnitude:
        power *= 2
    return power
