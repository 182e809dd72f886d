"""What a silo begins a round's local work with, and what that has led to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from silofl.strategies.base import State, Strategy
from silofl.types import Contribution, Mask, Vector


@dataclass(frozen=True)
class RoundStart:
    """What a silo begins a round's local work with.

    Attributes:
        shared: the strategy's shared vectors by name, (P,) each of the type that travels; not changed.
        buffers: the global buffers (b,); not changed.
        round_number: of the round, from 1.
        strategy: whose halves the round has.
        resync: see `LocalRound.resync`.
        loss: at the shared model, see `LocalRound.start_loss`.
        gradient: see `LocalRound.start_gradient`, (P,) of the model's dtype on its device.
        ahead: told what the silo contributes as soon as that is certain, if that is before its last step.
        chosen: see `LocalRound.chosen`.
        kept: which parameters are left (P,), see `GlobalMask`; None where nothing is pruned.
    """

    shared: Mapping[str, Vector]
    buffers: Vector
    round_number: int
    strategy: Strategy
    resync: bool = False
    loss: float = math.nan
    gradient: Tensor | None = None
    ahead: Callable[[Contribution], None] | None = None
    chosen: str = "model"
    kept: Mask | None = None

    @property
    def model(self) -> Vector:
        """(P,) the parameters that the silo trains."""
        return self.shared[self.chosen]


@dataclass
class Fitted:
    """What a round's local work has led to, before it is certain that it counts."""

    contribution: Contribution
    """The strategy's vectors and, where the model has buffers, their change (b,) as "buffers"."""
    state: State
    """The silo's next state of the strategy: see `Silo.accept`."""
    loss: float
    """Mean over the steps."""
    steps: int
    personal: State = field(default_factory=dict)
    """The silo's next state of its personal method."""
