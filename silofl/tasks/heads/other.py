"""Outputs of a task of one's own that does not tell what they are: they stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self, final

from silofl.config import DataConfig, TaskConfig
from silofl.errors import ConfigError
from silofl.tasks.heads.base import Head, Labels

if TYPE_CHECKING:
    from torch import Tensor

    from silofl.tasks.base import Metric


@final
@dataclass(frozen=True)
class OtherHead(Head):
    """For predictions alone."""

    kind: ClassVar[str] = ""

    @classmethod
    def of(cls, task: TaskConfig, data: DataConfig) -> Self:
        """See `Head`."""
        raise ConfigError("a task of your own has its own loss and metrics, and no head of silofl's")

    def describe(self) -> str:
        """See `Head`."""
        return "outputs as they are"

    def absent(self, labels: Labels) -> list[str]:
        """Nothing is known."""
        return []

    def targets(self, labels: Labels) -> Tensor:
        """None are known."""
        raise NotImplementedError

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """None are known."""
        raise NotImplementedError

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, Metric]:
        """None are known."""
        raise NotImplementedError
