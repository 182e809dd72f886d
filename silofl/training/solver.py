"""By what a personal method trains: `silofl/personal/base.py` says what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.config import TrainConfig
from silofl.errors import ConfigError
from silofl.training.attributes import Attributes
from silofl.training.flat import Correct, FlatModel
from silofl.training.losses import Losses
from silofl.training.seeding import derive, seed_everything
from silofl.training.trainer import FitResult, LocalTrainer

Part = Literal["all", "shared", "private"]


@final
class LocalSolver:
    """One silo's `Solver` of one round, whose global model is loaded.

    Args:
        trainer: of the silo's shared work.
        alone: makes the trainer of work that is not shared, by [train] and a number for its random choices.
        model: what they train.
        config: [train].
        round_number: of the round.
        silo: its number.
        correct: what the strategy does to gradients.
    """

    def __init__(
        self,
        trainer: LocalTrainer,
        alone: Callable[[TrainConfig, int], LocalTrainer],
        model: FlatModel,
        config: TrainConfig,
        round_number: int,
        silo: int,
        correct: Correct | None = None,
    ) -> None:
        self._trainer, self._alone, self._model, self._config = trainer, alone, model, config
        self._round, self._silo, self._correct = round_number, silo, correct
        self.lr = config.lr
        self.start = model.vector.clone()
        self._losses, self._results = Losses(), [FitResult(0.0, 0)]
        self._order: torch.Generator | None = None

    @property
    def values(self) -> Tensor:
        """See `Solver`."""
        return self._model.vector

    @property
    def parameters(self) -> Tensor:
        """See `Solver`."""
        return self._model.parameters

    def train(self, *, part: Part = "all") -> None:
        """See `Solver`."""
        correct = None if part == "private" else self._correct
        self._results.append(self._trainer.fit(self._round, correct, self._only(part)))

    def train_alone(
        self,
        correct: Correct | None = None,
        *,
        lr: float | None = None,
        epochs: int | None = None,
        part: Part = "all",
        stream: int = 1,
    ) -> None:
        """See `Solver`."""
        changes: dict[str, Any] = {"keep_optimizer": False}
        if lr is not None:
            changes["lr"] = lr
        if epochs is not None:
            whole = self._config.full_batch
            changes |= {"steps": epochs if whole else None, "epochs": None if whole else epochs}
        config = self._config.model_copy(update=changes)
        trainer = self._alone(config, stream)
        if lr is not None:
            trainer.rates = f"personal.lr = {lr}"
        trainer.fit(self._round, correct, self._only(part))

    def _only(self, part: Part) -> list[Tensor] | None:
        if part == "all":
            return None
        private = self._model.private_names
        found = [one for name, one in self._model.trained.items() if (name in private) == (part == "private")]
        if not found:  # some are always shared
            raise ConfigError(
                f"silo {self._silo}: personal.layers names nothing that is trained, and its layers are to be "
                'trained by themselves: add the head\'s parameters, or set personal.name = "fedper"',
                rank=self._silo,
            )
        return found

    def batches(self, stream: int = 0) -> Iterator[Any]:
        """See `Solver`."""
        if self._order is None:
            self._order = self._trainer.begin(self._round)
        seed = derive(self._order.initial_seed(), self._silo, stream)
        return self._trainer.reads.stepped(torch.Generator().manual_seed(seed) if stream else self._order)

    def gradient(self, batch: Any, *, report: bool = False, choice: int | None = None) -> Tensor:
        """See `Solver`."""
        if choice is not None and self._order is not None:
            seed_everything(derive(derive(self._order.initial_seed(), self._silo, choice), 0, 0))
        gradient, loss = self._trainer.gradient_of(batch)
        if report:
            found = self._losses.add(loss)
            if found is not None:
                raise self._trainer.diverged(self._round, f"loss {found.value} in step {found.step}", batch)
        return gradient

    def step(self, gradient: Tensor) -> None:
        """See `Solver`."""
        self._trainer.step_along(gradient)

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """See `Solver`."""
        return self._model.tensor(values)

    def saved(self) -> NDArray[Any]:
        """See `Solver`."""
        values = np.empty(self._model.size, self._model.wire_dtype)
        self._model.store(values)
        return values

    def load(self, values: NDArray[Any]) -> None:
        """See `Solver`."""
        self._model.vector.copy_(self._model.tensor(values))

    def result(self) -> FitResult:
        """What the shared work reports: the mean loss over all its steps."""
        found = self._losses.look()
        if found is not None:
            raise self._trainer.diverged(self._round, f"loss {found.value} in step {found.step}")
        steps = self._losses.steps + sum(one.steps for one in self._results)
        total = self._losses.total + sum(one.loss * one.steps for one in self._results)
        return FitResult(total / steps if steps else 0.0, steps)


@contextmanager
def aside(model: FlatModel, attributes: Attributes) -> Iterator[None]:
    """Put a model's values back afterwards, shared and its silo's own, and attributes."""
    held = attributes.state()
    before = model.vector.clone()
    own = {kind: {k: v.copy() for k, v in arrays.items()} for kind, arrays in model.own_state().items()}
    try:
        yield
        model.adopt()
    finally:
        with torch.no_grad():
            model.vector.copy_(before)
        model.load_own_state(own)
        attributes.load(held)
