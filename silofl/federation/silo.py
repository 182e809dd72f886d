"""This rank's institution: its model, its samples, its local work. Nothing here talks to other ranks.

`round.py` calls `Silo.fit`: the global model is loaded, `training/trainer.py` takes the local steps, and the
strategy's half of a silo (`strategies/base.py`) says what of the trained parameters is a contribution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from silofl.aggregation.spec import AggregationSpec
from silofl.config import Config, PrivacyConfig
from silofl.config.conflicts import corrects, refuse_private_parameters
from silofl.errors import DivergedError, TrainingError
from silofl.federation.backdoor_metric import evaluated
from silofl.federation.background_training import batch_made
from silofl.federation.first_models import DRAWING, drawn, refuse_clusters, starts_of
from silofl.federation.local_work import Fitted, RoundStart, refuse_spoiled
from silofl.federation.own_model import OwnModel, private_patterns
from silofl.federation.script_rules import refuse_unfit
from silofl.federation.silo_clients import clients_of
from silofl.federation.strategy_half import StrategyHalf
from silofl.federation.task_data import TaskData, counted_of, persons_of, training_data
from silofl.strategies.base import Strategy
from silofl.strategies.registry import build
from silofl.tasks.base import CollatingTask, SiloData, Task
from silofl.tasks.checks import refuse_process_group
from silofl.tasks.user_code import UserCode
from silofl.training.attributes import Attributes
from silofl.training.batches import Batches
from silofl.training.clients.client_split import ClientSplit
from silofl.training.clipped import ClippedGradients
from silofl.training.data_digest import data_digest
from silofl.training.device import explained, prepare
from silofl.training.evaluate import evaluate
from silofl.training.flat import DTYPES, Correct, FlatModel
from silofl.training.given_weights import GivenWeights
from silofl.training.metric_states import Evaluation
from silofl.training.own_loop import OwnLoop
from silofl.training.own_state import as_array, subtract, to_arrays, to_tensors
from silofl.training.persons import Persons
from silofl.training.publication import notices, published, refuse_unpublishable
from silofl.training.schedules import RoundSchedule
from silofl.training.trainer import FitResult, LocalTrainer
from silofl.training.trial import Trial, kept
from silofl.training.unshareable import rounded_caches
from silofl.types import Contribution, Vector


class Silo:
    """One institution, silo `number` of the run. Its samples stay here.

    Attributes:
        task, model: whose model it trains.
        samples, train: how many it trains on at the start, and as batches; none at a coordinator.
        weights: SHA-256 (hex) of the file that its model begins with; empty where it is drawn.
        persons: whose its training records are, where [privacy] samples them; else each is another's.
        counted: as how many it counts in sums: `persons`, clients, or its part of `privacy.records`.
        test_samples: how many are held out.
        schema, preprocessing: of the columns of its data, see `TaskData`.
        code: what calls the task.
        metric_names: of numbers that its evaluation reports.
        starts: what shared models but the first begin with, by name, (P,) each.
        strategy_state: its own of the strategy, arrays (P,) by name; changed by `accept` alone.
        fragments: of the parameters, one of which a round sums.
        clients: within it; None where it trains as a whole.
        own: its own model, and what it keeps for that; the state changes as above.
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
        data: TaskData | None = None,
    ) -> None:
        where, dtype, seed = torch.device(device), DTYPES[config.train.dtype], config.run.seed
        prepare(where)
        self.code = code = UserCode(number) if code is None else code
        given, self.schema, self.preprocessing = training_data(config, task, number, silos, code, data)
        train, test = given.train, given.test
        self.samples, self.test_samples = len(train), len(test) if test is not None else 0
        split = ClientSplit.of(config, given, number) if self.samples else None
        self.persons = persons_of(given, config.privacy, number)
        self.counted = counted_of(config.privacy, self.persons, split, silos)
        weights = GivenWeights.of(config, number)
        private_of = partial(private_patterns, task, config, silo=number)
        draw = partial(drawn, task, seed, code, weights=weights, private=private_of)
        untrained = draw(0)
        private = private_of(untrained)
        self.weights = "" if weights is None else weights.digest
        self._rounded = rounded_caches(untrained, dtype)
        # Means of buffers would have no noise, so that what is no constant is refused.
        self.model = FlatModel(untrained, dtype, where, private, constant_buffers=config.privacy.sampled)
        refuse_unpublishable(self.model)
        strategy = build(config.strategy) if strategy is None else strategy
        if private:
            refuse_private_parameters(config, strategy)
        refuse_clusters(config, strategy, self.model, number, silos)
        self.starts = starts_of(config, strategy, self.model, draw, number)
        self.strategy_state = strategy.local_init(self.model.trainable, self.model.wire_dtype)
        self.task, self._rated = task, evaluated(task, config, code)
        self._data: SiloData | None = given
        self._data_digest = self._arrived = b""  # the latter of records that have come since
        collate = task.collate if isinstance(task, CollatingTask) else None
        batches = partial(Batches, on_batch=batch_made, collate=collate, code=code)  # each is progress
        self._test = None if test is None else batches(test, dtype, where)
        self.train = batches(train, dtype, where)
        trains, schedule = (task, self.model, self.train, config.train), RoundSchedule.of(config)
        self.trainer = LocalTrainer(*trains, seed=seed, silo=number, code=code, schedule=schedule)
        self.trainer.own_loop = OwnLoop.of(task, self.model, train, code)
        self._attributes = Attributes(untrained, task=task, train=train, test=test)
        own = config, task, self.trainer, self.model, self._attributes, self.train, code
        self.own = OwnModel.of(*own, strategy)
        self.clients = clients_of(*own, strategy, split)
        refuse_unfit(config, task, strategy, self.own.method, number)
        self._number, self._precision = number, config.train.precision
        self._eval_batch_size = config.train.eval_batch_size or config.train.batch_size
        self._noisy = config.privacy.unit != "none"
        parts = self.trainer, self.model, self._attributes
        self._half = StrategyHalf(*parts, config, self.counted, number, strategy)
        self.fragments = self._half.fragments
        self.metric_names, self._moved = frozenset[str](), list[str]()
        if self.samples:
            with DRAWING, explained(number):
                self._try(config, strategy)

    def _try(self, config: Config, strategy: Strategy) -> None:
        """Train and evaluate on the first batches, and put the model back: what cannot work is told now."""
        dense = strategy.local != "train" or corrects(strategy) or config.privacy.samples
        with kept(self.model.module):  # before steps, whose optimizer takes seconds to load
            found = evaluate(self._rated, self.model, self._test, self._eval_batch_size, self.code, batches=1)
        found.finish(self.code)
        self.metric_names = self.own.metric_names(found.own)
        refuse_process_group(self._number)
        self._attributes.load({})
        trial = Trial(self.trainer, self.model, self.train, config.train, self._number)
        values, count = self.initial(), self.model.trainable
        start = RoundStart({"model": values[:count]}, values[count:], 0, strategy)
        with self._half.comparing(self.strategy_state, start):
            trial.run(own_steps=not dense)  # random generators are seeded anew by every round
        if self.clients is not None:
            self.clients.choose()
        self._moved = self._attributes.moved()
        if config.privacy.samples:
            self._attributes.refuse_moved(self._number)
        self._attributes.load({})

    def refuse_moved(self) -> None:
        """Raise TrainingError where training on single examples changed what has no noise."""
        self._attributes.refuse_moved(self._number)
        self._attributes.note()

    def data_digest(self) -> bytes:
        """`data_digest` of its data, which is made once, and what has come since; the former is let go."""
        if self._data is not None:
            with DRAWING:
                self._data_digest = data_digest(self._data)
            self._data = None
        return self._data_digest + self._arrived

    def follow(self, persons: Persons, counted: int, arrived: bytes) -> None:
        """Train on more records, which are of `persons`, and count as `counted` from now on."""
        self.persons, self.counted, self._arrived, self._half.samples = persons, counted, arrived, counted

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
            DivergedError: the loss, or what training made of buffers, is not finite.
        """
        with self.errors_of(start.round_number):
            start = self._half.chosen(start)
            self._half.load(start)
            start = self._half.measured(start)
            state = self.own.state
            if start.strategy.local != "train":
                trained, result = self._half.in_place_of_training(self.strategy_state, start)
            else:
                with self._half.comparing(self.strategy_state, start):
                    self._half.begin(self.strategy_state, start)
                    work = self.own if self.clients is None else self.clients
                    result, state = work.fit(start.round_number, self.correction(start))
                trained = self.model.parameters
            self.model.check(own=self._noisy)
            state = self.own.beside(start, state)
        return replace(self.contribution(trained, result, start), personal=state)

    @contextmanager
    def errors_of(self, round_number: int) -> Iterator[None]:
        """Say of a model that training changed whose it is, and of a GPU what it lacks."""
        try:
            with explained(self._number):
                yield
        except TrainingError as error:
            if error.rank is not None:
                raise
            said = f"silo {self._number}, round {round_number}: {error}"
            raise TrainingError(said, rank=self._number) from None

    def correction(self, start: RoundStart) -> Correct | None:
        """What the strategy does to gradients; None where it does nothing, which costs nothing."""
        return self._half.correction(self.strategy_state, start)

    def contribution(self, trained: torch.Tensor, result: FitResult, start: RoundStart) -> Fitted:
        """What to send of trained parameters (P,), which are written over where they can be: no copy."""
        contribution, state = self._half.contribute(self.strategy_state, as_array(trained), result, start)
        if len(start.buffers):
            change: Vector = as_array(self.model.vector[self.model.trainable :])
            subtract(change, start.buffers)
            refuse_spoiled(self.model, change, contribution, self._number, start.round_number)
            contribution = replace(contribution, vectors={**contribution.vectors, "buffers": change})
        return Fitted(contribution, state, result.loss, result.steps)

    def nothing(self, spec: AggregationSpec) -> Fitted:
        """What to send in a round that this silo sits out: zeros, without training; its state stays."""
        vectors = {one.name: np.zeros(one.size, spec.dtype) for one in spec.vectors}
        contribution = Contribution(vectors, dict.fromkeys(spec.scalars, 0.0))
        return Fitted(contribution, self.strategy_state, math.nan, 0, self.own.state)

    def accept(self, fitted: Fitted) -> None:
        """Take up the states that a round has left, once its sum is certain."""
        self.strategy_state, self.own.state = fitted.state, fitted.personal

    def diverged(self, round_number: int, what: str = "its update") -> DivergedError:
        """The error of a round in which `what`, such as a tensor's name, is not finite."""
        return self.trainer.diverged(round_number, f"{what} has values that are not finite")

    def clipped_gradients(self, config: PrivacyConfig) -> ClippedGradients:
        """Gradients of single examples at its model, clipped. ConfigError where the model has none."""
        return ClippedGradients(
            *(self.task, self.model, self.train),
            clip_norm=config.clip_norm,
            clipping=config.clipping,
            silo=self._number,
            precision=self._precision,
            code=self.code,
        )

    def model_of(self, start: RoundStart) -> Vector:
        """(d,) what the silo has of the shared models: of several the one that it would train next."""
        with self.errors_of(start.round_number):
            chosen = self._half.chosen(start)
        return np.concatenate([chosen.model, chosen.buffers])

    def evaluate(self, values: Vector, round_number: int = 0) -> Evaluation:
        """The global model's metrics, with this silo's private parameters, over its held-out samples.

        Those of its personal model stand beside them, as "personal/" and their name.
        """
        given = self._rated, self.model, self._test, self._eval_batch_size, self.code
        with explained(self._number):
            self.model.load(values)
            with self.own.statistics(round_number):
                found = evaluate(*given)
            self.own.evaluate(found, partial(evaluate, *given), round_number)
        found.finish(self.code)
        return found

    def export(self, values: Vector) -> dict[str, NDArray[np.generic]]:
        """What of the global model (d,) is published, by name, for `model.safetensors`."""
        return published(self.model, values)

    def notices(self) -> list[str]:
        """What of its model is not as a user may think."""
        return notices(self.model, self._moved, self._rounded) + self.own.notices()

    def state(self) -> dict[str, Any]:
        """All that only this silo has and a resume needs; its arrays change with the next training."""
        scaler = self.trainer.scaler_state()
        return {
            "model": self.model.own_state(),
            "optimizer": to_arrays(self.trainer.optimizer.state()),
            "strategy": dict(self.strategy_state),
            "personal": dict(self.own.state),
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
        self.own.restore(state.get("personal", {}))
        self._attributes.load(state.get("attributes", {}))
