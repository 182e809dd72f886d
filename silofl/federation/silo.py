"""This rank's institution: its model, its samples, its local work. Nothing here talks to other ranks."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.config import Config, PrivacyConfig
from silofl.errors import DataError
from silofl.launcher import watchdog
from silofl.tasks.base import SiloData, Task
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.device import device_name
from silofl.training.evaluate import evaluate
from silofl.training.flat import DTYPES, FlatModel, as_array
from silofl.training.gradient_check import EXAMPLES
from silofl.training.private import PrivateSteps, StepNoise, Streams
from silofl.training.randomness import INITIAL_MODEL, derive, seed_everything
from silofl.training.trainer import FitResult, LocalTrainer
from silofl.types import Update
from silofl_kernels import largest_magnitude

Vector = NDArray[np.floating[Any]]
_DRAWING = threading.Lock()
"""Torch has one generator for all threads, and silos that are threads draw one model."""


def place(requested: str, local_rank: int) -> str:
    """The torch device that `train.device` means for a rank. Raises ConfigError for one that is not there."""
    return device_name(requested, torch.cuda.device_count(), local_rank)


class Silo:
    """One institution, silo `number` of the run. Its samples stay here.

    Raises DataError where it has no training samples.
    """

    def __init__(self, config: Config, task: Task, number: int, silos: int, device: str) -> None:
        where, dtype = torch.device(device), DTYPES[config.train.dtype]
        seed = config.run.seed
        data = SiloData(*task.data(number, silos))
        if len(data.train) == 0:
            raise DataError(
                f"silo {number} has no training samples: give it data or start without it", rank=number
            )
        with _DRAWING:
            seed_everything(derive(seed, INITIAL_MODEL, 0))
            untrained = task.model()
        self.model = FlatModel(untrained, dtype, where)
        self.samples = len(data.train)
        self.test_samples = len(data.test) if data.test is not None else 0
        self._task = task
        beat = watchdog.heartbeat  # every step of training and evaluation is progress
        self._test = Batches(data.test, dtype, where, beat) if data.test is not None else None
        self._train = Batches(data.train, dtype, where, beat)
        self.trainer = LocalTrainer(task, self.model, self._train, config.train, seed=seed, silo=number)
        self._number, self._precision = number, config.train.precision
        self._private: PrivateSteps | None = None
        self._wire = self._make_wire()

    def _make_wire(self) -> Vector:
        """Where updates are written: the model's own vector if it lies in memory in the type that travels."""
        own = as_array(self.model.vector)
        shares = self.model.vector.device.type == "cpu" and own.dtype == self.model.wire_dtype
        in_place = shares and self.model.vector.dtype != torch.bfloat16
        return own if in_place else np.empty(self.model.size, self.model.wire_dtype)

    def initial(self) -> Vector:
        """The untrained model's shared values (d,), a new wire vector."""
        values = np.empty_like(self._wire)
        self.model.store(values)
        return values

    def fit(self, global_vector: Vector, round_number: int, local: str) -> tuple[Update, FitResult]:
        """Train from the global model; what to send is valid until the next call on this silo.

        Raises TrainingError where it is not finite: it must not be shared.
        """
        self.model.load(global_vector)
        if local == "gradient":
            gradient, result = self.trainer.gradient(round_number)
            self._wire[:] = as_array(gradient)
        else:
            result = self.trainer.fit(round_number)
            np.subtract(as_array(self.model.vector), global_vector, out=self._wire)
        return self._finite(self._wire, round_number), result

    def _finite(self, values: Vector, round_number: int) -> Update:
        if not math.isfinite(largest_magnitude(values)):
            raise self.trainer.diverged(round_number, "its update has values that are not finite")
        return Update(values)

    def protect(self, config: PrivacyConfig, streams: Streams) -> None:
        """Take single examples from now on as [privacy] says. Raises ConfigError where the model cannot."""
        if config.unit != "example":
            return
        if self._private is not None:
            self._private.close()
        gradients = self._clipped_gradients(config)
        self._private = PrivateSteps(gradients, self.model, self.samples, config.sample_rate, streams)

    def refuse_unprotectable(self, config: PrivacyConfig) -> None:
        """Raise the ConfigError that `protect` would, or the first step after it."""
        if config.unit == "example":
            gradients = self._clipped_gradients(config)
            gradients.sum(np.arange(min(EXAMPLES, self.samples)))
            gradients.close()

    def _clipped_gradients(self, config: PrivacyConfig) -> ClippedGradients:
        return ClippedGradients(
            self._task,
            self.model,
            self._train,
            clip_norm=config.clip_norm,
            clipping=config.clipping,
            silo=self._number,
            precision=self._precision,
        )

    @property
    def _steps(self) -> PrivateSteps:
        if self._private is None:
            raise RuntimeError("examples are not protected")
        return self._private

    def clipped_sum(self, global_vector: Vector, round_number: int, attempt: int) -> tuple[Update, FitResult]:
        """The clipped gradients of a sample of records, added up, without noise; else as `fit`."""
        self.model.load(global_vector)
        total, stats = self._steps.sum(round_number, attempt)
        return self._finite(as_array(total), round_number), FitResult(stats.loss, 1)

    def fit_privately(
        self, global_vector: Vector, steps: int, noise: StepNoise, round_number: int, attempt: int
    ) -> tuple[Update, FitResult]:
        """Train by noisy steps from the global model; else as `fit`."""
        self.model.load(global_vector)
        result = self.trainer.fit_privately(self._steps, steps, noise, round_number, attempt)
        np.subtract(as_array(self.model.vector), global_vector, out=self._wire)
        return self._finite(self._wire, round_number), result

    def evaluate(self, global_vector: Vector) -> tuple[dict[str, float], int]:
        """The global model's means over this silo's held-out samples, and how many there are."""
        self.model.load(global_vector)
        return evaluate(self._task, self.model, self._test)

    def export(self, global_vector: Vector) -> dict[str, NDArray[np.generic]]:
        """The global model's parameters and buffers by name, for `model.safetensors`."""
        return self.model.export(global_vector)

    def state(self) -> dict[str, Any]:
        """All that only this silo has and a resume needs; its arrays change with the next training."""
        return {"counters": self.model.counters(), "optimizer": _to_numpy(self.trainer.optimizer_state())}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of an earlier `state()`."""
        self.model.load_counters(state["counters"])
        self.trainer.load_optimizer_state(_to_torch(state["optimizer"]))


def _to_numpy(node: Any) -> Any:
    """Tensors become arrays: views of live memory where they can be."""
    if isinstance(node, torch.Tensor):
        return as_array(node)
    if isinstance(node, dict):
        return {key: _to_numpy(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_to_numpy(value) for value in node]
    return node


def _to_torch(node: Any) -> Any:
    if isinstance(node, np.ndarray):
        return torch.from_numpy(node)
    if isinstance(node, dict):
        return {key: _to_torch(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_to_torch(value) for value in node]
    return node
