"""Clients that train together: their models lie in stacked tensors, and torch.func.vmap calls the task once.

An optimizer whose step is made of each value by itself steps stacked tensors as it steps those of one client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, vmap

from silofl.config import TrainConfig
from silofl.tasks.base import PerExampleTask, Task
from silofl.tasks.user_code import UserCode
from silofl.training.batches import Batches, handed, map_tensors, shuffled_numbers, spans
from silofl.training.flat import FlatModel
from silofl.training.local_batches import LocalBatches
from silofl.training.optimizers import new_optimizer
from silofl.training.schedules import RoundSchedule
from silofl.training.trainer import FitResult

Clients = NDArray[np.int64]
MOST_VALUES = 1 << 22
"""Of the stacked models, at most: 16 MiB in float32, and as much for each of gradients and moments."""
MOST_SAMPLE_VALUES = 1 << 22
"""Of the samples of one step, at most, where they are of several clients."""
ELEMENTWISE = frozenset({
    "SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "RMSprop", "Rprop", "ASGD",
})  # fmt: skip
"""Of torch.optim: what steps each value by itself, given its gradient."""
CLIP_EPS = 1e-6
"""Of `torch.nn.utils.clip_grad_norm_`."""


class Job(NamedTuple):
    """One client's work."""

    client: int
    records: Tensor
    """int64 (n,): the numbers of its records among the silo's."""
    order: torch.Generator
    """Of its records' order."""


def unfit(task: Task, model: FlatModel, train: Batches, config: TrainConfig) -> str:
    """Why clients cannot train together, in a few words; empty where nothing is known to forbid it."""
    reasons = {
        "samples are read one by one": train.tensors is None,
        "the model has buffers that training changes": model.size > model.trainable
        or bool(model.untrained_counters),
        "steps are of mixed or low precision": config.precision != "full"
        or model.vector.dtype not in (torch.float32, torch.float64),
        "the model has complex parameters": any(one.is_complex() for one in model.trained.values()),
        f"{config.optimizer} does not step each value by itself": config.optimizer not in ELEMENTWISE,
        "the model is large enough by itself": 2 * model.trainable > MOST_VALUES,
    }
    return next((why for why, holds in reasons.items() if holds), "")


@final
class StackedClients:
    """Local steps of several clients at once.

    Args:
        task, model, train: of the silo.
        schedule: of the rates.
        silo: its number.
        code: calls the task.
    """

    def __init__(
        self, task: Task, model: FlatModel, train: Batches, schedule: RoundSchedule, code: UserCode
    ) -> None:
        self._task, self._model, self._train, self._code = task, model, train, code
        self._schedule = schedule
        self.pads = isinstance(task, PerExampleTask)
        """Whether clients of unequal batches go together."""
        self._call = _Call(task, model.module, each=self.pads)

    @property
    def _each(self) -> int:
        """How many values one sample has."""
        return sum(one[:1].numel() for one in self._train.tensors or ())

    def values(self, count: int, largest: int, config: TrainConfig) -> tuple[int, int]:
        """Of models, and of samples, of so many clients, at most, as lie beside each other; see `chunks`.

        `largest` is of how many records a client may be.
        """
        models, width = self._model.trainable, _width(largest, config)
        count = min(count, max(1, MOST_VALUES // models))
        return count * models, min(count * width * self._each, max(MOST_SAMPLE_VALUES, width * self._each))

    def chunks(self, clients: Clients, sizes: Clients, config: TrainConfig) -> Iterator[Clients]:
        """Clients that take equally many steps, as many as memory is bounded for: models, and batches.

        Those of unequal batches are together only where the task tells the loss of every example, so that
        what is added to make them equal counts nothing. Those of like sizes are together.
        """
        most = max(1, MOST_VALUES // self._model.trainable)
        key = sizes if not self.pads else np.array([_steps(int(size), config) for size in sizes])
        for value in np.unique(key):
            alike = np.flatnonzero(key == value)
            alike = alike[np.argsort(sizes[alike], kind="stable")]
            start = 0
            for stop, size in enumerate(sizes[alike].tolist()):  # the widest so far
                count = stop + 1 - start
                if count > 1 and (
                    count > most or count * _width(size, config) * self._each > MOST_SAMPLE_VALUES
                ):
                    yield clients[alike[start:stop]]
                    start = stop
            yield clients[alike[start:]]

    def learnt(
        self, jobs: Sequence[Job], config: TrainConfig, round_number: int, *, wider: int = 0
    ) -> Iterator[tuple[int, Tensor, FitResult]]:
        """What each of a chunk's clients learns from the model's values, as `Learnt`.

        Batches are filled up to be `wider` than the largest, where that counts nothing.
        """
        model, count = self._model, len(jobs)
        with self._code.calling("model", when="as torch put it into training mode"):
            model.module.train()
        stacked = {
            name: one.detach().expand(count, *one.shape).clone().requires_grad_()
            for name, one in model.trained.items()
        }
        optimizer = new_optimizer(model, config, list(stacked.values()))
        for group in optimizer.param_groups:
            group["lr"] *= self._schedule.factor(round_number)
        losses, steps = torch.zeros(count, dtype=torch.float64), 0
        for batch in self._batches(jobs, config, wider if self.pads else 0):
            losses += self._step(stacked, optimizer, batch, config)
            steps += 1
        with torch.no_grad():
            changes = torch.cat(
                [(stacked[name] - model.trained[name]).reshape(count, -1) for name in model.tensor_names], 1
            )
        for job, change, loss in zip(jobs, changes, (losses / max(steps, 1)).tolist(), strict=True):
            yield job.client, change, FitResult(loss, steps)

    def _step(
        self,
        stacked: dict[str, Tensor],
        optimizer: torch.optim.Optimizer,
        batch: _Batch,
        config: TrainConfig,
    ) -> Tensor:
        """A step of every client; their losses (clients,), float64 on the CPU."""
        with self._code.calling("loss", self._task.loss):
            found = vmap(self._call.of, randomness="error")(stacked, handed(batch.samples))
        each = found if found.dim() == 1 else batch.mean(found)
        gradients = torch.autograd.grad(each.sum(), list(stacked.values()), allow_unused=True)
        there = [one for one in gradients if one is not None]
        if config.clip_norm is not None:
            norms = torch.stack([torch.linalg.vector_norm(one.flatten(1), dim=1) for one in there])
            scale = (config.clip_norm / (torch.linalg.vector_norm(norms, dim=0) + CLIP_EPS)).clamp(max=1.0)
            for one in there:
                one.mul_(scale.view(-1, *[1] * (one.dim() - 1)))
        for parameter, gradient in zip(stacked.values(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        return each.detach().to("cpu", torch.float64)

    def _batches(self, jobs: Sequence[Job], config: TrainConfig, wider: int) -> Iterator[_Batch]:
        """Every step's samples of all clients, made of equal number by samples that do not count."""
        orders = [LocalBatches(_Numbers(len(job.records)), config).stepped(job.order) for job in jobs]
        for places in zip(*orders, strict=True):
            numbers = [job.records[place] for job, place in zip(jobs, places, strict=True)]
            counts = torch.tensor([len(one) for one in numbers])
            width = int(counts.max()) + wider
            filled = [torch.cat([one, one[:1].expand(width - len(one))]) for one in numbers]
            samples = self._train.take(torch.stack(filled).reshape(-1))
            shaped = map_tensors(
                samples, lambda one: one.reshape(len(jobs), -1, *one.shape[1:]), lambda other: other
            )
            if int(counts.min()) == width:
                yield _Batch(shaped)
                continue
            yield _Batch(shaped, (torch.arange(width) < counts[:, None]).to(self._model.vector.device))


@dataclass(frozen=True)
class _Batch:
    """One step's samples of several clients."""

    samples: Any
    """Tensors (clients, batch, ...) in containers as a batch has."""
    real: Tensor | None = None
    """(clients, batch): which samples count; None: all."""

    def mean(self, losses: Tensor) -> Tensor:
        """Of the losses of samples (clients, batch), those of clients (clients,)."""
        if self.real is None:
            return losses.mean(1)
        return (losses * self.real).sum(1) / self.real.sum(1)


class _Call(nn.Module):
    """The task's loss, or losses, of one client's batch, as a module whose parameters can be others."""

    def __init__(self, task: Task, module: nn.Module, *, each: bool) -> None:
        super().__init__()
        self.model = module
        self._loss: Any = task.losses if each and isinstance(task, PerExampleTask) else task.loss

    def forward(self, batch: Any) -> Tensor:
        """(batch,), or ()."""
        found: Tensor = self._loss(self.model, batch)
        return found

    def of(self, parameters: dict[str, Tensor], batch: Any) -> Tensor:
        """The same with these parameters, by their names in the model."""
        named = {f"model.{name}": one for name, one in parameters.items()}
        found: Tensor = functional_call(self, named, (batch,))
        return found


class _Numbers:
    """The numbers of samples in the place of samples: see `Readable`."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def all(self) -> Tensor:
        return torch.arange(self._count)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, int]]:
        for start, stop in spans(self._count, batch_size):
            yield torch.arange(start, stop), stop - start

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, drop_last: bool = False
    ) -> Iterator[Tensor]:
        return shuffled_numbers(self._count, batch_size, generator, torch.device("cpu"), drop_last=drop_last)


def _width(records: int, config: TrainConfig) -> int:
    """How many samples the largest batch of a client of so many records has."""
    return records if config.full_batch else min(records, config.batch_size)


def _steps(records: int, config: TrainConfig) -> int:
    """How many steps a client of so many records takes in a round."""
    if config.full_batch or config.steps is not None:
        return config.steps or 1
    return (config.epochs or 1) * len(list(spans(records, config.batch_size, drop_last=config.drop_last)))
