"""A strategy whose gradients have a correction that a topology keeps, and which tells how far it went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from silofl.strategies.base import AtStart, LocalRound, State, Strategy, Values
from silofl.types import Contribution, Vector

CORRECTION = "correction"
DISTANCE = "distance"
"""Among a contribution's scalars: the number of local steps times their learning rate."""


class TrackedStrategy(Strategy):
    """The silo's half of `inner`, with the shared vector "correction" (P,) added to gradients."""

    shared = ("model", CORRECTION)
    needs_rates = True

    def __init__(self, inner: Strategy) -> None:
        self._inner = inner

    def at_start(self) -> AtStart:
        """See `Strategy`."""
        return self._inner.at_start()

    def local_init(self, size: int, dtype: np.dtype[Any]) -> State:
        """See `Strategy`."""
        return self._inner.local_init(size, dtype)

    def correct(self, gradient: Values, values: Values, local: LocalRound) -> None:
        """gradient += c, behind what the strategy does itself."""
        self._inner.correct(gradient, values, local)
        gradient += local.shared[CORRECTION]

    def compared_layer(self) -> str | None:
        """See `Strategy`."""
        return self._inner.compared_layer()

    def references(self, local: LocalRound) -> Sequence[Values]:
        """See `Strategy`."""
        return self._inner.references(local)

    def penalty(self, output: Values, others: Sequence[Values]) -> Values:
        """See `Strategy`."""
        return self._inner.penalty(output, others)

    def contribute(
        self, trained: Vector, steps: int, loss: float, local: LocalRound
    ) -> tuple[Contribution, State]:
        """See `Strategy`."""
        contribution, state = self._inner.contribute(trained, steps, loss, local)
        return replace(contribution, scalars={DISTANCE: steps * local.lr}), state
