"""A silo's own model: parts of the shared one that stay with it, and what a personal method keeps and does.

`silo.py` calls `fit` for a round's local work, `beside` after it, and `evaluate` beside the global model's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from silofl.config import Config, TrainConfig
from silofl.errors import ConfigError
from silofl.federation.local_work import RoundStart
from silofl.personal import registry as methods
from silofl.personal.base import Personal, State
from silofl.strategies.base import Strategy
from silofl.tasks.base import PersonalTask, Task
from silofl.tasks.user_code import UserCode
from silofl.topologies.arrangements.registry import build
from silofl.training.attributes import Attributes
from silofl.training.batch_norm import own_statistics, recompute
from silofl.training.batches import Batches
from silofl.training.evaluate import Evaluate
from silofl.training.flat import Correct, FlatModel
from silofl.training.metric_states import Evaluation
from silofl.training.publication import whole
from silofl.training.seeding import derive
from silofl.training.slots import plain_name
from silofl.training.solver import LocalSolver, aside
from silofl.training.trainer import FitResult, LocalTrainer


def private_patterns(task: Task, config: Config, module: nn.Module, silo: int) -> tuple[str, ...]:
    """Patterns (fnmatch) of the names of what stays with a silo: of the task, and of the method.

    Raises ConfigError where a method does not go with the task or its model.
    """
    method = methods.build(config.personal)
    named = task.private if isinstance(task, PersonalTask) else ()
    if named and method.effect in ("beside", "instead"):
        raise ConfigError(
            f'silo {silo}: personal.name = "{config.personal.name}" keeps a whole model of each '
            "silo's own, and the task's attribute private keeps part of the shared one: remove one of them",
            rank=silo,
        )
    try:
        kept = (*method.private(module), *own_statistics(module, config.train.batch_norm))
    except ConfigError as error:
        raise ConfigError(f"silo {silo}: {error}", rank=silo) from None
    kept = tuple(map(plain_name, kept))
    return (*named, *kept) if kept else named  # type: ignore[return-value]  # a text is refused by its reader


@dataclass
class OwnModel:
    """One silo's personal method, with its state.

    Args:
        method: see `Personal`.
        trainer: of the silo's shared work, with the task and the samples that it trains on.
        model: what it trains.
        config: [train].
        seed: `run.seed`.
        silo: its number.
        attributes: of model and task, which what a silo does for itself alone leaves as they are.
        recompute: sets running statistics of batch normalization anew, by a seed, see `train.batch_norm`.
        state: of the method; changed by `Silo.accept` and a resume alone.
    """

    method: Personal
    trainer: LocalTrainer
    model: FlatModel
    config: TrainConfig
    seed: int
    silo: int
    attributes: Attributes
    recompute: Callable[[int], None]
    state: State = field(default_factory=dict)
    clustered: str = ""
    """By which strategy the silo has one of several shared models; empty for one."""
    neighbours: bool = False
    """Whether it has a model of its own that it averages with its neighbours'."""
    has_data: bool = True
    """Whether there is anything that a model of its own would be of: not at a coordinator."""

    @classmethod
    def of(
        cls,
        config: Config,
        task: Task,
        trainer: LocalTrainer,
        model: FlatModel,
        attributes: Attributes,
        train: Batches,
        code: UserCode,
        strategy: Strategy,
    ) -> Self:
        """The own model of the silo that `code` is of, by [personal], [train] and a strategy's models."""
        method, local = methods.build(config.personal), config.train
        anew = partial(recompute, task, model.module, train, local, code)
        own = cls(method, trainer, model, local, config.run.seed, code.silo, attributes, anew)
        for key in method.rates:
            trainer.rates += f" or personal.{key} = {getattr(method, key)}"
        own.neighbours = build(config.topology).own_models
        own.has_data = len(train) > 0
        own.clustered = type(strategy).__name__ if len(strategy.models) > 1 else ""
        return own

    def fit(self, round_number: int, correct: Correct | None) -> tuple[FitResult, State]:
        """A round's local training from the values that are loaded; its next state."""
        solver = self._solver(round_number, correct)
        state = self.method.fit(solver, self.state)
        return solver.result(), state

    def beside(self, start: RoundStart, state: State) -> State:
        """What the method does for itself alone from the global model; its next state."""
        if self.method.effect != "beside":
            return state
        with aside(self.model, self.attributes):
            self.model.load_parts(start.model, start.buffers)
            return self.method.beside(self._solver(start.round_number), state)

    def _solver(self, round_number: int, correct: Correct | None = None) -> LocalSolver:
        def alone(config: TrainConfig, stream: int) -> LocalTrainer:
            return self.trainer.another(config, derive(self.seed, self.silo, stream))

        return LocalSolver(self.trainer, alone, self.model, self.config, round_number, self.silo, correct)

    @contextmanager
    def statistics(self, round_number: int) -> Iterator[None]:
        """Statistics of batch normalization as they are to be evaluated; put back afterwards."""
        if self.config.batch_norm != "recomputed":
            yield
            return
        with aside(self.model, self.attributes):
            self.recompute(derive(self.seed, self.silo, round_number))
            yield

    @contextmanager
    def _adapted(self, round_number: int) -> Iterator[None]:
        """The personal model in the place of the global one, which is loaded."""
        with aside(self.model, self.attributes):
            self.method.adapt(self._solver(round_number), self.state)
            yield

    def metric_names(self, shared: Iterable[str]) -> frozenset[str]:
        """Of all metrics, where the shared model has those."""
        names = tuple(shared)
        return frozenset((*names, *(f"personal/{name}" for name in names if self.method.adapts)))

    def evaluate(self, found: Evaluation, evaluate: Evaluate, round_number: int) -> None:
        """Add the personal model's metrics to those of the loaded global one, as "personal/" and name."""
        if self.method.adapts and self.has_data:
            with self._adapted(round_number):
                found.include("personal", evaluate())

    def arrays(self, round_number: int) -> dict[str, NDArray[np.generic]] | None:
        """The silo's own model, whole and by name; None where it has none. The global one is loaded."""
        if not (self.kind and self.has_data):
            return None
        with self._adapted(round_number), self.statistics(round_number):
            return whole(self.model)

    @property
    def kind(self) -> str:
        """Which model of its own the silo ends with; empty where it has none."""
        if self.clustered:
            return f"{self.clustered}, one of several shared models for each silo"
        if self.neighbours:
            return "each silo's own, averaged with its neighbours'"
        if self.method.effect == "none" and self.config.batch_norm != "averaged":
            return f"statistics of batch normalization, {self.config.batch_norm}"
        if self.method.effect == "none":
            return "layers that the task keeps with each silo" if self.model.private_names else ""
        return f"{type(self.method).__name__} ({self.method.paper}), a model of each silo's own"

    def notices(self) -> list[str]:
        """What a user may not expect of several shared models."""
        if not self.clustered:
            return []
        return [
            "each shared model is open to all: one that a single silo takes in a round becomes what that "
            "silo trained, which no sum hides, and the number of records behind each may tell whose it is"
        ]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up an earlier state."""
        self.state = {name: np.array(values) for name, values in state.items()}
