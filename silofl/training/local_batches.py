"""Which batches a silo's local work reads, as [train] has it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, final

import torch

from silofl.config import TrainConfig

FULL_BATCH_PIECE = 4096
"""Samples that a full-batch gradient takes at once."""
Read = Callable[[torch.Generator], Iterator[tuple[Any, float]]]
"""read(generator) gives a round's batches, each with its weight."""


class Readable(Protocol):
    """Samples that are read in batches, as `Batches` does, or their numbers alone."""

    def __len__(self) -> int:
        """How many samples there are."""

    def all(self) -> Any:
        """Every sample as one batch."""

    def in_order(self, batch_size: int) -> Iterator[tuple[Any, int]]:
        """Every sample once, in their order: (batch, its number of samples)."""

    def shuffled(
        self, batch_size: int, generator: torch.Generator, *, drop_last: bool = False
    ) -> Iterator[Any]:
        """One epoch in a random order."""


@final
class LocalBatches:
    """The batches of a silo's training samples, by what they are for; the same of one generator."""

    def __init__(self, train: Readable, config: TrainConfig) -> None:
        self._train, self._config = train, config

    def of_steps(self, generator: torch.Generator) -> Iterator[tuple[Any, float]]:
        """One for each local step, of weight 1."""
        return ((batch, 1.0) for batch in self.stepped(generator))

    def of_gradient(self, generator: torch.Generator) -> Iterator[tuple[Any, float]]:
        """All samples if `full_batch`, else one batch, with their parts of a mean."""
        if not self._config.full_batch:
            yield next(self._train.shuffled(self._config.batch_size, generator)), 1.0
            return
        yield from self.of_all(generator)

    def of_all(self, generator: torch.Generator) -> Iterator[tuple[Any, float]]:
        """All samples, in pieces no larger than what a step takes at once, with their parts of a mean."""
        least = FULL_BATCH_PIECE if self._config.full_batch else 1
        pieces = math.ceil(len(self._train) / max(self._config.batch_size, least))
        for batch, count in self._train.in_order(math.ceil(len(self._train) / pieces)):  # of nearly one size
            yield batch, count / len(self._train)

    def stepped(self, generator: torch.Generator) -> Iterator[Any]:
        """One for each local step, in the order that the generator gives.

        With `train.seconds`, counted from the first batch on, while they last; one at least.
        """
        budget, began = self._config.seconds, time.monotonic()
        for number, batch in enumerate(self._counted(generator)):
            if budget is not None and number and time.monotonic() - began >= budget:
                return
            yield batch

    def _counted(self, generator: torch.Generator) -> Iterator[Any]:
        """As many as [train] says; without an end where it has seconds alone."""
        config = self._config
        unbounded = config.seconds is not None and config.epochs is None and config.steps is None

        def epoch() -> Iterator[Any]:
            if config.full_batch:
                return iter((self._train.all(),))
            return self._train.shuffled(config.batch_size, generator, drop_last=config.drop_last)

        epochs = config.steps if config.full_batch else config.epochs
        if unbounded:
            while True:
                yield from epoch()
        elif config.full_batch or config.steps is None:
            for _ in range(epochs or 1):
                yield from epoch()
        else:
            left = config.steps
            while left > 0:
                for batch in epoch():
                    yield batch
                    left -= 1
                    if left == 0:
                        return
