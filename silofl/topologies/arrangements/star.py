"""Star: one rank without data is the server of all others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, final

from silofl.constrained import NonNegativeInt
from silofl.topologies.arrangements.base import Arrangement, Groups


@final
@dataclass(frozen=True)
class Star(Arrangement):
    """A coordinator, which has no data, adds up what silos send, steps the model, and gives it to all."""

    moves_sums: ClassVar[bool] = True
    coordinator: NonNegativeInt = 0
    """The rank that has no data and serves the whole model; the others are the silos, in their order."""

    def refuse(self, ranks: int) -> None:
        """See `Arrangement`."""
        if self.coordinator >= ranks:
            raise ValueError(
                f"topology.coordinator = {self.coordinator}, and there are ranks 0 to {ranks - 1}: name one "
                "of them, or start one rank more than there are silos with data"
            )
        if ranks == 1:
            raise ValueError(
                'topology.name = "star" with one rank has no silo beside the coordinator: start one rank for '
                "each silo and one more"
            )

    def coordinators(self, ranks: int) -> tuple[int, ...]:
        """See `Arrangement`."""
        return (self.coordinator,)

    def lacking(self, groups: Groups, left: Collection[int]) -> str:
        """See `Arrangement`."""
        return "" if self.coordinator in left else f"rank {self.coordinator}, the coordinator, is the server"

    def sees(self, source: int, target: int, ranks: int, *, private: bool) -> str:
        """See `Arrangement`."""
        if source == self.coordinator:
            return "the new model"
        if target != self.coordinator:
            return "" if not private else "shares of its keys, sealed: nothing"
        return "its update, masked: nothing but the sum of all" if private else "its update"
