"""What a silo begins a round's local work with, and what that has led to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from silofl.errors import DivergedError
from silofl.strategies.base import State, Strategy
from silofl.training.flat import FlatModel
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


def refuse_spoiled(
    model: FlatModel, change: Vector, contribution: Contribution, silo: int, round_number: int
) -> None:
    """Raise DivergedError where buffers (b,) alone have changed by what is not finite; not where all has."""
    spoiled = np.flatnonzero(~np.isfinite(change))
    if spoiled.size and all(np.isfinite(values).all() for values in contribution.vectors.values()):
        name = model.buffer_names[int(np.searchsorted(model.buffer_ends, spoiled[0], "right"))]
        raise DivergedError(
            f"silo {silo}, round {round_number}: training changed buffer {name} from or to values that are "
            "not finite, of which there is no mean; let it begin finite and stay so",
            rank=silo,
        )


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
