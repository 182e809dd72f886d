"""A head: from the columns of a target to a loss, metrics and predictions. Importing it loads no torch."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from silofl.config import DataConfig, TaskConfig
from silofl.tasks.outputs import Outputs
from silofl.tasks.readers.column_roles import tidy
from silofl.tasks.readers.target_column import CellRule
from silofl.tasks.target_recipe import TargetRecipe

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric

Floats = NDArray[np.float64]
Labels = NDArray[Any]
"""A silo's targets as they were read: class numbers int64 (n,), or float64 (n, columns of the target)."""
Agreement = Generator[Floats, Floats, TargetRecipe]
"""Gives a silo's summands (k,), takes their sums over all silos: see `tasks/column_agreement.py`."""


class Counted(NamedTuple):
    """What `silofl stats` shows of a target's column that has few values."""

    name: str
    values: tuple[str, ...]
    """That a record may have."""
    codes: NDArray[np.intp]
    """(n,), the place of each record's among them."""


@dataclass(frozen=True)
class Head(Outputs, ABC):
    """What the last layer of a model is for. One file each, and one line in `HEADS`.

    Losses are of one example each: no example meets another in them, so that they go under every protocol,
    with gradients of single examples and under [privacy]. Outputs are float (batch, outputs), of single
    precision at least.

    Attributes:
        agrees: whether silos find a part of `recipe` together, by `agreement`.
    """

    agrees: bool = False

    of_classes: ClassVar[bool] = False
    """Whether the target is a class in one column, or the folder of an image; else it is numbers."""

    @classmethod
    @abstractmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """That of a configuration. Raises ConfigError where its keys do not go together."""

    @property
    def outputs(self) -> int:
        """Width of the model's last layer."""
        return len(self.names)

    def rules(self, place: int) -> Sequence[CellRule]:
        """What numbers in the target's column at this place may not be."""
        return ()

    def with_recipe(self, recipe: TargetRecipe) -> Self:
        """The same with what silos agreed on."""
        return replace(self, recipe=recipe)

    def agreement(self, labels: Labels) -> Agreement:
        """Find the recipe of all silos' training records together; collective.

        Raises DataError, naming no silo, where they allow none.
        """
        yield from ()
        return self.recipe

    @abstractmethod
    def describe(self) -> str:
        """What is learnt, for `silofl check`: without any value of the data."""

    @abstractmethod
    def absent(self, labels: Labels) -> list[str]:
        """What a silo's records do not have, which it alone is told: parts of a sentence."""

    def numbers(self, labels: Labels) -> Mapping[str, Floats]:
        """Columns (n,) of numbers, of which `silofl stats` shows means and quantiles."""
        return {}

    def least(self, name: str) -> float:
        """No number in that column of the target is below it."""
        return -math.inf

    def counted(self, labels: Labels) -> Sequence[Counted]:
        """Columns of few values, which `silofl stats` counts."""
        return ()

    @abstractmethod
    def targets(self, labels: Labels) -> Tensor:
        """What the loss takes, (n,) or (n, k): integers, or floats that lose nothing as float32."""

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (batch,)."""

    @abstractmethod
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """Beside the loss: sums over examples, added up over silos and finished afterwards."""


def target_names(data: DataConfig) -> tuple[str, ...]:
    """The target's columns, as silos compare names."""
    given = [data.target] if isinstance(data.target, str) else data.target
    return tuple(map(tidy, given))


def precise(outputs: Tensor) -> Tensor:
    """In float32 at least."""
    import torch

    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))
