"""Whether clients that train together learn what each learns by itself, tried before the first round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silofl.config import TrainConfig
from silofl.tasks.base import PerExampleTask, Task
from silofl.training.batches import Batches, handed
from silofl.training.clients.stacked_clients import Job, StackedClients
from silofl.training.flat import FlatModel
from silofl.training.seeding import seed_everything
from silofl.training.trainer import FitResult

Clients = NDArray[np.int64]
MOST = 4
"""Clients that are tried."""
STEPS = 3
"""Of each: a penalty, a counter or a hook may do nothing in the first."""
SAMPLES = 64
"""Of several clients, at least, on which the loss is held against the mean of those of samples."""
BOUNDS = {torch.float32: 3e-4, torch.float64: 1e-9}
"""On a difference, of the largest value."""
OTHERS = "the task gives clients that train together other numbers"
KEPT = "the model or the task keeps what its forward pass has made"


@final
class StackedTrial:
    """Some clients' first steps, taken either way.

    Args:
        task, model, train: of the silo.
        stacked: takes them together.
        config: [train].
    """

    def __init__(
        self, task: Task, model: FlatModel, train: Batches, stacked: StackedClients, config: TrainConfig
    ) -> None:
        self._task, self._model, self._train, self._stacked = task, model, train, stacked
        self.config = config.model_copy(update={"steps": STEPS, "epochs": None})

    def clients(self, sizes: Clients) -> Clients:
        """Which are tried: the smallest, the largest and some between, or some of one size."""
        there = np.flatnonzero(sizes)
        if not self._stacked.pads:  # only those of one size are together
            there = there[sizes[there] == np.bincount(sizes[there]).argmax()]
        there = there[np.argsort(sizes[there], kind="stable")]
        chosen: Clients = there[np.unique(np.linspace(0, len(there) - 1, MOST).astype(int))]
        return chosen

    def differs(self, jobs: Sequence[Job], alone: Sequence[tuple[Tensor, FitResult]]) -> str:
        """Why these clients do not learn what each has learnt `alone`, its change (d,); empty where they do.

        The values are loaded, and left as they are. Batches are filled up further than they have to be, so
        that a task shows whether one sample's loss follows from the others.
        """
        if any(one._backward_hooks for one in self._model.trained.values()):
            return "parameters have hooks"
        sizes = np.array([len(job.records) for job in jobs])
        try:
            chunks = list(self._stacked.chunks(np.arange(len(jobs)), sizes, self.config))
            for chunk in chunks:
                some = [jobs[one] for one in chunk]
                found = self._stacked.learnt(some, self.config, 1, wider=1)
                for one, (_, change, result) in zip(chunk, list(found), strict=True):
                    if not self._same(change, alone[one][0]) or not self._same(
                        change.new_tensor(result.loss), change.new_tensor(alone[one][1].loss)
                    ):
                        return OTHERS
            if any(is_stacked(value) for one in self._model.module.modules() for value in vars(one).values()):
                return KEPT
            return "" if self._is_mean() else OTHERS
        except Exception as error:  # of any kind: a client by itself has trained without
            return f"torch.func.vmap refuses the task ({type(error.__cause__ or error).__name__})"

    def _is_mean(self) -> bool:
        """Whether the loss of a batch is the mean of its samples' losses, on samples of several clients."""
        if not isinstance(self._task, PerExampleTask):
            return True
        batch = self._train.take(torch.arange(min(len(self._train), max(SAMPLES, self.config.batch_size))))
        module, found = self._model.module.train(), []
        for loss in (self._task.loss, self._task.losses):
            seed_everything(0)
            with torch.no_grad():
                found.append(loss(module, handed(batch)).mean())
        return self._same(found[1], found[0])

    def _same(self, found: Tensor, expected: Tensor) -> bool:
        most = BOUNDS[self._model.vector.dtype] * float(expected.abs().max())
        return bool(((found - expected).abs() <= most).all())


def is_stacked(value: object) -> bool:
    """Whether it is a tensor that vmap has made, which is none any more afterwards."""
    return isinstance(value, Tensor) and torch._C._functorch.is_batchedtensor(value)
