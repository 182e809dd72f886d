"""Steps of a trainer that several ranks of its silo share: each takes its part of every batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor

from silofl.config import TrainConfig


class Steps(Protocol):
    """What a trainer asks of the ranks of its silo."""

    def reading(self, config: TrainConfig, name: str, seed: int) -> AbstractContextManager[None]:
        """A context in which every rank reads its part of the batches of a method of `LocalBatches`."""

    def reduce(self, differentiate: Callable[[float], Tensor], scale: Callable[[], float]) -> Tensor:
        """Have every rank differentiate its part of a batch; the loss of all of it, ().

        `differentiate(share)` does so here for the loss times `share`, this rank's part of the batch, and
        times `scale()`, and gives the loss times `share`.
        """


class Alone:
    """The `Steps` of a silo of one rank."""

    def reading(self, config: TrainConfig, name: str, seed: int) -> AbstractContextManager[None]:
        """See `Steps`."""
        return nullcontext()

    def reduce(self, differentiate: Callable[[float], Tensor], scale: Callable[[], float]) -> Tensor:
        """See `Steps`."""
        return differentiate(1.0)
