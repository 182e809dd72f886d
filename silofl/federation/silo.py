"""This rank's institution: its model, its samples, its local work. Nothing here talks to other ranks."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.aggregation.spec import AggregationSpec
from silofl.config import Config, PrivacyConfig
from silofl.config.conflicts import corrects
from silofl.errors import ConfigError, DataError, TrainingError
from silofl.federation.local_work import Fitted, RoundStart
from silofl.launcher import watchdog
from silofl.strategies.base import LocalRound, Strategy
from silofl.strategies.registry import build
from silofl.tasks.base import CollatingTask, PersonalTask, SiloData, SizedDataset, Task
from silofl.tasks.checks import data_of, model_of, schema_of
from silofl.tasks.user_code import UserCode
from silofl.training.attributes import Attributes
from silofl.training.batches import Batches
from silofl.training.clipped import ClippedGradients
from silofl.training.data_digest import data_digest
from silofl.training.device import device_name, explained, prepare
from silofl.training.evaluate import evaluate
from silofl.training.flat import DTYPES, Correct, FlatModel
from silofl.training.gradient_check import EXAMPLES
from silofl.training.metric_states import Evaluation
from silofl.training.own_state import as_array, subtract, to_arrays, to_tensors
from silofl.training.private import PrivateSteps, StepNoise
from silofl.training.publication import left_out, published, refuse_unpublishable
from silofl.training.seeding import INITIAL_MODEL, derive, seed_everything
from silofl.training.trainer import FitResult, LocalTrainer
from silofl.training.trial import Trial, kept
from silofl.transforms.base import SecretStreams
from silofl.types import Contribution, Update, Vector

_DRAWING = threading.Lock()
"""Torch has one generator for all threads, and silos that are threads draw one model."""


def place(requested: str, local_rank: int) -> str:
    """The torch device that `train.device` means for a rank. Raises ConfigError for one that is not there."""
    return device_name(requested, torch.cuda.device_count(), local_rank)


class Silo:
    """One institution, silo `number` of the run. Its samples stay here.

    Attributes:
        model: what it trains.
        samples: how many it trains on.
        test_samples: how many are held out.
        schema: name and kind of each column of its data, where the task tells of them.
        code: what calls the task.
        strategy_state: its own state of the strategy, arrays (P,) by name; changed by `accept` alone.
        name: of this part of a run, see `Stateful`.

    Raises:
        DataError: it has no training samples, or its model cannot be shared.
        ConfigError: an optimizer, or private parameters, that the configuration cannot have.
        UserCodeError: the task raised.
    """

    name = "silo"

    def __init__(
        self,
        config: Config,
        task: Task,
        number: int,
        silos: int,
        device: str,
        strategy: Strategy | None = None,
        *,
        code: UserCode | None = None,
    ) -> None:
        where, dtype = torch.device(device), DTYPES[config.train.dtype]
        seed = config.run.seed
        prepare(where)
        self.code = code = UserCode(number) if code is None else code
        with code.calling("data", task.data):
            data = data_of(task.data(number, silos), number)
            self.samples = len(data.train)
            self.test_samples = len(data.test) if data.test is not None else 0
        if self.samples == 0:
            raise DataError(
                f"silo {number} has no training samples: give it data or start without it", rank=number
            )
        with _DRAWING:
            seed_everything(derive(seed, INITIAL_MODEL, 0))
            with code.calling("model", task.model):
                untrained = model_of(task.model(), number)
        with code.calling("schema"):
            self.schema = schema_of(task)
        private = task.private if isinstance(task, PersonalTask) else ()
        self.model = FlatModel(untrained, dtype, where, private)
        refuse_unpublishable(self.model)
        strategy = build(config.strategy) if strategy is None else strategy
        if private:
            _refuse_private(config, strategy)
        self.strategy_state = strategy.local_init(self.model.trainable, self.model.wire_dtype)
        self._task = task
        self._data: SiloData | None = data
        self._data_digest = b""
        collate = task.collate if isinstance(task, CollatingTask) else None

        def batches(samples: SizedDataset) -> Batches:
            on_batch = watchdog.heartbeat  # every step of training and evaluation is progress
            return Batches(samples, dtype, where, on_batch, collate=collate, code=code)

        self._test = None if data.test is None else batches(data.test)
        self._train = batches(data.train)
        self.trainer = LocalTrainer(
            task, self.model, self._train, config.train, seed=seed, silo=number, code=code
        )
        self._number, self._precision = number, config.train.precision
        self._eval_batch_size = config.train.eval_batch_size or config.train.batch_size
        self._lr = config.train.lr
        self._noisy = config.privacy.unit != "none"
        self._private: PrivateSteps | None = None
        self._attributes = Attributes(untrained, task=task, train=data.train, test=data.test)
        with _DRAWING, explained(number):
            self._try(config, strategy)

    def _try(self, config: Config, strategy: Strategy) -> None:
        """Train and evaluate on the first batches, and put the model back: what cannot work is told now.

        Random generators are seeded anew by every round.
        """
        dense = strategy.local == "gradient" or corrects(strategy) or config.privacy.unit == "example"
        trial = Trial(self.trainer, self.model.module, self._train, config.train, self._number)
        trial.run(own_steps=not dense)
        self._moved = self._attributes.moved()
        if self._moved and config.privacy.unit == "example":
            raise self._unregistered(self._moved[0])
        with kept(self.model.module):
            found = evaluate(self._task, self.model, self._test, self._eval_batch_size, self.code, batches=1)
        found.finish(self.code)
        self._attributes.load({})

    def _unregistered(self, name: str) -> TrainingError:
        """The error of what steps on single examples would make of earlier ones, without noise."""
        return TrainingError(
            f"silo {self._number}: local training changed {name}, an attribute of the model which has no "
            "noise, and may not decide what a silo tells under [privacy]: do not change it in training",
            rank=self._number,
        )

    def _refuse_moved(self) -> None:
        moved = self._attributes.moved()
        if moved:
            raise self._unregistered(moved[0])
        self._attributes.note()

    def data_digest(self) -> bytes:
        """`data_digest` of its data, which is made once; the data as it was read is let go."""
        if self._data is not None:
            with _DRAWING:
                self._data_digest = data_digest(self._data)
            self._data = None
        return self._data_digest

    def initial(self) -> Vector:
        """The untrained model's shared values (d,), a new vector of the type that travels."""
        values = np.empty(self.model.size, self.model.wire_dtype)
        self.model.store(values)
        return values

    def fit(self, start: RoundStart) -> Fitted:
        """Train from the global model, or take the gradient at it, as the strategy says.

        What to send is valid until the next call on this silo, and may have values that are not finite: the
        aggregator refuses those before anything is shared. The silo's state of the strategy stays as it is,
        see `accept`, for a round may be taken again.

        Raises:
            TrainingError: the loss is not finite.
        """
        with self._named(start.round_number):
            self.model.load_parts(start.shared["model"], start.buffers)
            if start.strategy.local == "gradient":
                trained, result = self.trainer.gradient(start.round_number)
            else:
                result = self.trainer.fit(start.round_number, self._correction(start))
                trained = self.model.parameters
            self.model.check(own=self._noisy)
        return self._contribution(trained, result, start)

    @contextmanager
    def _named(self, round_number: int) -> Iterator[None]:
        """Say of a model that training changed whose it is, and of a GPU what it lacks."""
        try:
            with explained(self._number):
                yield
        except TrainingError as error:
            if error.rank is not None:
                raise
            said = f"silo {self._number}, round {round_number}: {error}"
            raise TrainingError(said, rank=self._number) from None

    def _correction(self, start: RoundStart) -> Correct | None:
        """What the strategy does to gradients; None where it does nothing, which costs nothing."""
        strategy = start.strategy
        if not corrects(strategy):
            return None
        on_device = {name: self.model.tensor(values) for name, values in start.shared.items()}
        own = {name: self.model.tensor(values) for name, values in self.strategy_state.items()}
        local = LocalRound(on_device, own, self._lr, self.samples, start.resync)
        return lambda gradient, values: strategy.correct(gradient, values, local)

    def _contribution(self, trained: torch.Tensor, result: FitResult, start: RoundStart) -> Fitted:
        """What to send of trained parameters (P,), which are written over where they can be: no copy."""
        local = LocalRound(start.shared, self.strategy_state, self._lr, self.samples, start.resync)
        contribution, state = start.strategy.contribute(as_array(trained), result.steps, result.loss, local)
        if len(start.buffers):
            change: Vector = as_array(self.model.vector[self.model.trainable :])
            subtract(change, start.buffers)
            self._refuse_spoiled(change, contribution, start.round_number)
            contribution = replace(contribution, vectors={**contribution.vectors, "buffers": change})
        return Fitted(contribution, state, result.loss, result.steps)

    def _refuse_spoiled(self, change: Vector, contribution: Contribution, round_number: int) -> None:
        """Raise TrainingError where buffers alone have changed by what is not finite; not where all has."""
        spoiled = np.flatnonzero(~np.isfinite(change))
        if spoiled.size and all(np.isfinite(values).all() for values in contribution.vectors.values()):
            name = self.model.buffer_names[int(np.searchsorted(self.model.buffer_ends, spoiled[0], "right"))]
            raise TrainingError(
                f"silo {self._number}, round {round_number}: training changed buffer {name} from or to "
                "values that are not finite, of which there is no mean; let it begin finite and stay so",
                rank=self._number,
            )

    def nothing(self, spec: AggregationSpec) -> Fitted:
        """What to send in a round that this silo sits out: zeros, without training; its state stays."""
        vectors = {one.name: np.zeros(one.size, spec.dtype) for one in spec.vectors}
        contribution = Contribution(vectors, dict.fromkeys(spec.scalars, 0.0))
        return Fitted(contribution, self.strategy_state, math.nan, 0)

    def accept(self, fitted: Fitted) -> None:
        """Take up the state of the strategy that a round has left, once its sum is certain."""
        self.strategy_state = fitted.state

    def diverged(self, round_number: int, what: str = "its update") -> TrainingError:
        """The error of a round in which `what`, such as a tensor's name, is not finite."""
        return self.trainer.diverged(round_number, f"{what} has values that are not finite")

    def protect(self, config: PrivacyConfig, streams: SecretStreams) -> None:
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
            code=self.code,
        )

    @property
    def _steps(self) -> PrivateSteps:
        if self._private is None:
            raise RuntimeError("examples are not protected")
        return self._private

    def clipped_sum(self, values: Vector, round_number: int, attempt: int) -> tuple[Update, FitResult]:
        """The clipped gradients of a sample of records at the global model (d,), added up, without noise.

        Valid until the next call on this silo; it may have values that are not finite.
        """
        with self._named(round_number):
            self.model.load(values)
            total, stats = self._steps.sum(round_number, attempt)
            self.model.check(own=True, in_place=True)
            self._refuse_moved()
        return Update(as_array(total)), FitResult(stats.loss, 1)

    def fit_privately(self, start: RoundStart, steps: int, noise: StepNoise, attempt: int) -> Fitted:
        """As `fit`, by noisy steps: all that is sent is made of gradients that have their noise.

        The loss has none: the strategy is given NaN for it, which no sum takes.
        """
        with self._named(start.round_number):
            self.model.load_parts(start.shared["model"], start.buffers)
            result = self.trainer.fit_privately(
                self._steps, steps, noise, start.round_number, attempt, self._correction(start)
            )
            self.model.check(own=True, in_place=True)
            self._refuse_moved()
        fitted = self._contribution(self.model.parameters, replace(result, loss=math.nan), start)
        return replace(fitted, loss=result.loss)

    def evaluate(self, values: Vector) -> Evaluation:
        """The global model's metrics over this silo's held-out samples, and how many there are.

        Private parameters are this silo's own.
        """
        with explained(self._number):
            self.model.load(values)
            found = evaluate(self._task, self.model, self._test, self._eval_batch_size, self.code)
        found.finish(self.code)
        return found

    def export(self, values: Vector) -> dict[str, NDArray[np.generic]]:
        """What of the global model (d,) is published, by name, for `model.safetensors`."""
        return published(self.model, values)

    def notices(self) -> list[str]:
        """What of its model is not as a user may think."""
        extra = left_out(self.model)
        found = [
            f"{name} of the model is neither shared nor kept: model.safetensors lacks it, load it with "
            "strict=False"
            for name in extra[:1]
        ]
        return found + [
            f"training changes {name} of the model, an attribute that is no buffer: each silo has its own, "
            "and model.safetensors lacks it; register_buffer() would share it"
            for name in self._moved[:1]
        ]

    def state(self) -> dict[str, Any]:
        """All that only this silo has and a resume needs; its arrays change with the next training."""
        scaler = self.trainer.scaler_state()
        return {
            "model": self.model.own_state(),
            "optimizer": to_arrays(self.trainer.optimizer_state()),
            "strategy": dict(self.strategy_state),
            **({"scaler": scaler} if scaler else {}),
            "attributes": self._attributes.state(),
        }

    def rejoin_state(self) -> dict[str, Any]:
        """See `Stateful`: nothing of a silo's own is told."""
        return {}

    def take_over(self, told: dict[str, Any], own: dict[str, Any] | None) -> None:
        """See `Stateful`."""
        self.restore(own)

    def restore(
        self, state: dict[str, Any] | None, committed_by: tuple[int, ...] = (), *, member: bool = True
    ) -> None:
        """See `Stateful`: its own state counts, whichever round it is of."""
        if state is None:
            return
        self.model.load_own_state(state["model"])
        self.trainer.load_state(to_tensors(state["optimizer"]), state.get("scaler", {}))
        self.strategy_state = {name: np.array(values) for name, values in state["strategy"].items()}
        self._attributes.load(state.get("attributes", {}))


def _refuse_private(config: Config, strategy: Strategy) -> None:
    """Raise ConfigError where private parameters would not be trained, or would tell of their data."""
    if strategy.local == "gradient":
        raise ConfigError(
            f'strategy.name = "{config.strategy.name}" takes no local step, so that the task\'s private '
            'parameters would stay as they are: set strategy.name = "fedavg", or remove the attribute private'
        )
    if config.privacy.unit != "none":
        raise ConfigError(
            f'privacy.unit = "{config.privacy.unit}" puts noise on what is shared, and metrics of the '
            'task\'s private parameters have none: set privacy.unit = "none", or remove the attribute private'
        )
