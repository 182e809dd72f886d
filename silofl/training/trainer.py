"""One silo's local work in a round: from the global model to what this silo learnt.

`federation/silo.py` loads the global model into the flat vector of `FlatModel`, calls `fit`, and finds the
trained values in the same vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from silofl.config import TrainConfig
from silofl.errors import DivergedError
from silofl.tasks.base import Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, handed
from silofl.training.comparison import Comparison
from silofl.training.divergence import cause_at_the_start
from silofl.training.earlier import Earlier
from silofl.training.flat import Correct, FlatModel
from silofl.training.local_batches import LocalBatches, Read
from silofl.training.local_optimizer import LocalOptimizer
from silofl.training.losses import Losses, NotFinite, scalar_loss, taken
from silofl.training.optimizers import frozen
from silofl.training.own_loop import OwnLoop
from silofl.training.precision import autocast
from silofl.training.private import PrivateSteps, StepNoise
from silofl.training.pruned_weights import PrunedWeights
from silofl.training.schedules import RoundSchedule
from silofl.training.seeding import derive, seed_everything
from silofl.training.shared_steps import Alone, Steps


@dataclass(frozen=True)
class FitResult:
    """What a round's local training reports beside the trained model: the mean loss of its steps."""

    loss: float
    steps: int


class LocalTrainer:
    """Trains `model` on one silo's samples; the result is left in `model.vector`.

    `code` calls the task; without it, for measurements, no traceback is kept. `schedule` is of the rates.
    """

    def __init__(
        self,
        task: Task,
        model: FlatModel,
        train: Batches,
        config: TrainConfig,
        *,
        seed: int,
        silo: int,
        code: UserCode | None = None,
        schedule: RoundSchedule | None = None,
    ) -> None:
        self._task, self._model, self._train, self._config = task, model, train, config
        self.reads, self._seed, self._silo = LocalBatches(train, config), seed, silo
        self.team: Steps = Alone()
        self._code = UserCode(silo) if code is None else code
        schedule = RoundSchedule() if schedule is None else schedule
        self.optimizer = LocalOptimizer(task, model, config, schedule, self._code)
        self.own_loop: OwnLoop | None = None
        """Trains in the place of `fit`'s steps, where it is set."""
        self.rates = f"train.lr = {config.lr}"
        """By which keys steps are as long as they are, with their values, for errors."""
        self.comparison: Comparison | None = None
        """Adds a term to the losses of `fit`, where it is set."""
        self.earlier: Earlier | None = None
        """Takes a copy of parameters between steps of `fit`, where it is set."""
        self.unmoved: list[str] = []
        """Names of the shared parameters that the first round's local work left as they were."""
        self.pruned = PrunedWeights()
        """What stays zero in steps."""
        enabled = config.precision == "float16" and model.vector.is_cuda
        self._scaler = torch.amp.GradScaler("cuda", enabled=enabled)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.current

    def fit(
        self, round_number: int, correct: Correct | None = None, only: Sequence[Tensor] | None = None
    ) -> FitResult:
        """Train from the values in the model's vector. Raises DivergedError where the loss is not finite.

        `correct` is called before every optimizer step, after `train.clip_norm`. All gradients are dense
        then: that of a shared parameter without part in a step is zero. With `only` no other is trained.
        """
        generator = self.begin(round_number, only)
        if self.own_loop is not None:
            loss = self.own_loop.fit(round_number)
            return FitResult(0.0, 0) if loss is None else FitResult(loss, 1)
        step = self._step if correct is None else self._corrected_step(correct)
        step = step if self.earlier is None else self.earlier.before(step)
        with frozen(self._model.trained.values(), only):
            losses = self._take(
                self.reads.of_steps, lambda batch, _: step(batch), generator, round_number, team=self.team
            )
        return FitResult(losses.total / losses.steps, losses.steps)

    def another(self, config: TrainConfig, seed: int) -> LocalTrainer:
        """One for the same model and samples, with an optimizer and random choices of its own."""
        own = self._task, self._model, self._train, config
        schedule = self.optimizer.schedule
        made = LocalTrainer(*own, seed=seed, silo=self._silo, code=self._code, schedule=schedule)
        made.team = self.team
        return made

    def begin(self, round_number: int, only: Sequence[Tensor] | None = None) -> torch.Generator:
        """Set up a round's optimizer and generators, of which that of the data's order is returned."""
        if self.own_loop is None:
            self.optimizer.begin(round_number, only)
        self.to_train()
        return seed_everything(derive(self._seed, self._silo, round_number))

    def gradient_of(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The gradient (P,) of a batch at the values as they are, after `train.clip_norm`, and its loss."""
        gradient = self._model.gradient_vector()
        loss = self.differentiate(batch)
        self.pruned.clear_gradients()
        self._clip()
        self._model.adopt()
        return gradient[: self._model.trainable], loss

    def step_along(self, gradient: Tensor) -> None:
        """A step of the optimizer along a gradient (P,), which it may write over."""
        self._optimizer.zero_grad()
        whole = torch.cat([gradient, gradient.new_zeros(self._model.size - len(gradient))])
        self._model.gradients_from(whole)
        self._optimizer.step()

    def _take(
        self,
        read: Read,
        step: Callable[[Any, float], Tensor],
        generator: torch.Generator,
        round_number: int,
        remedy: str | None = None,
        *,
        team: Steps | None = None,
    ) -> Losses:
        """Take a step with each batch and its weight, of which each rank of a `team` has a part.

        Raises DivergedError where a loss is not finite.
        """
        with (team or Alone()).reading(self._config, read.__name__, generator.initial_seed()):
            losses, found, batch = taken(read(generator), step)
            batch = None if self._train.part is not None else batch
        if found is not None:
            raise self._diverged_at(found, batch, read, round_number, remedy)
        return losses

    def fit_privately(
        self,
        private: PrivateSteps,
        steps: int,
        noise: StepNoise,
        round_number: int,
        attempt: int,
        correct: Correct | None = None,
    ) -> FitResult:
        """Train by noisy steps on clipped gradients from the values in the model's vector."""
        self.optimizer.begin(round_number)
        self.to_train()
        loss = private.train(self._optimizer, steps, noise, round_number, attempt, correct)
        return FitResult(loss, steps)

    def gradient(self, round_number: int) -> tuple[Tensor, FitResult]:
        """Mean gradient (P,) at the model's values: over all samples if `full_batch`, else over one batch.

        Buffers such as running statistics are left in the model as the forward passes have made them.
        """
        return self._mean_gradient(self.reads.of_gradient, round_number, "lower strategy.lr")

    def measure(self, round_number: int, *, gradient: bool) -> tuple[float, Tensor | None]:
        """Mean loss of all samples at the model's values, and its `gradient` (P,), else None."""
        lower = f"lower train.lr = {self._config.lr}"
        if gradient:
            found, result = self._mean_gradient(self.reads.of_all, round_number, lower)
            return result.loss, found
        generator = seed_everything(derive(self._seed, self._silo, round_number))
        self.to_train()
        with torch.no_grad():
            losses = self._take(
                self.reads.of_all, lambda one, part: self._loss(one) * part, generator, round_number, lower
            )
        return losses.total, None

    def _mean_gradient(self, read: Read, round_number: int, remedy: str) -> tuple[Tensor, FitResult]:
        generator = seed_everything(derive(self._seed, self._silo, round_number))
        self.to_train()
        gradient = self._model.gradient_vector()

        def add(batch: Any, weight: float) -> Tensor:
            return self.team.reduce(lambda share: self.differentiate(batch, weight * share), lambda: 1.0)

        losses = self._take(read, add, generator, round_number, remedy, team=self.team)
        self.pruned.clear_gradients()
        self._clip()
        return gradient[: self._model.trainable], FitResult(losses.total, losses.steps)

    def to_train(self) -> None:
        """Put the model into training mode."""
        with self._code.calling("model", when="as torch put it into training mode"):
            self._model.module.train()

    def _step(self, batch: Any) -> Tensor:
        self._optimizer.zero_grad()
        loss = self._backward(batch)
        if self._config.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            self._clip()
        self._update()
        return loss

    def _corrected_step(self, correct: Correct) -> Callable[[Any], Tensor]:
        """Steps whose gradients are views of one vector, which is corrected."""
        model, gradient = self._model, self._model.gradient_vector()

        def step(batch: Any) -> Tensor:
            self._optimizer.zero_grad()
            gradient.zero_()
            model.gradients_from(gradient)  # backward adds to them in place
            loss = self._backward(batch)
            self._scaler.unscale_(self._optimizer)
            self._clip()
            model.adopt()
            correct(gradient[: model.trainable], model.parameters)
            self._update()
            return loss

        return step

    def _backward(self, batch: Any) -> Tensor:
        """The gradients of a batch, scaled where mixed precision needs it; its loss."""
        scaler = self._scaler
        loss = self.team.reduce(
            lambda share: self.differentiate(batch, share, scaler.scale), scaler.get_scale
        )
        self.pruned.clear_gradients()
        return loss

    def differentiate(
        self, batch: Any, share: float = 1.0, scale: Callable[[Tensor], Tensor] = lambda loss: loss
    ) -> Tensor:
        """Add a batch's gradients, of `share` of its loss, which `scale` makes larger; that share, ()."""
        loss = self._loss(batch)
        loss = loss if share == 1.0 else loss * share
        self._differentiate(scale(loss))
        return loss.detach()

    def _differentiate(self, loss: Tensor) -> None:
        """Go backward: hooks, and functions of the task's own, are its code as well."""
        with self._code.calling("loss", self._task.loss):
            loss.backward()  # type: ignore[no-untyped-call]

    def _loss(self, batch: Any) -> Tensor:
        """The task's loss of a batch, (). Raises DataError where it is no number to be differentiated."""
        if self.comparison is not None:
            return self.comparison.loss(lambda module: self._loss_of(module, batch))
        return self._loss_of(self._model.module, batch)

    def _loss_of(self, module: nn.Module, batch: Any) -> Tensor:
        with autocast(self._config, self._model.vector.device), self._code.calling("loss", self._task.loss):
            loss = self._task.loss(module, handed(batch))
        return scalar_loss(loss, self._silo)

    def _exact_loss(self, batch: Any) -> Tensor:
        """Without mixed precision."""
        return self._task.loss(self._model.module, handed(batch))

    def _update(self) -> None:
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.pruned.clear()

    def _clip(self) -> None:
        if self._config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._model.module.parameters(), self._config.clip_norm)

    def _diverged_at(
        self, found: NotFinite, batch: Any, read: Read, round_number: int, remedy: str | None
    ) -> DivergedError:
        """The error of a loss that is not finite, whose batch is `read` again where it is not at hand."""
        if batch is None:
            generator = seed_everything(derive(self._seed, self._silo, round_number))
            batch, _ = next(islice(read(generator), found.step - 1, None), (None, 0.0))  # of `train.seconds`
        what = f"loss {found.value}" + ("" if remedy else f" in step {found.step}")
        return self.diverged(round_number, what, batch, remedy)

    def diverged(
        self, round_number: int, what: str, batch: Any = None, remedy: str | None = None
    ) -> DivergedError:
        """The error of a round whose result may not be shared; its training is over, and partly repeated.

        `batch` is the one at which it was found out, if that is known; `remedy` what helps where no step of
        this silo's was too long.
        """
        model, config = self._model, self._config
        model.reload()
        if batch is None:
            batch = next(self.reads.stepped(seed_everything(derive(self._seed, self._silo, round_number))))
        exact = None if config.precision == "full" else self._exact_loss
        with self._code.calling("loss", self._task.loss):
            cause = cause_at_the_start(model, self._loss, exact, batch)
        norm = "set train.clip_norm" if config.clip_norm is None else f"train.clip_norm = {config.clip_norm}"
        lower = f"training diverged ({what}); {remedy or f'lower {self.rates} or {norm}'}"
        return DivergedError(
            f"silo {self._silo}, round {round_number}: {lower if cause is None else cause}", rank=self._silo
        )

    def scaler_state(self) -> dict[str, Any]:
        """By what losses in float16 are scaled, and since when; empty where they are not."""
        return self._scaler.state_dict()

    def load_state(self, optimizer: dict[str, Any], scaler: dict[str, Any]) -> None:
        """Set both states again, after a resume; what is empty stays as it is."""
        self.optimizer.load(optimizer)
        if scaler and self._scaler.is_enabled():
            self._scaler.load_state_dict(scaler)
