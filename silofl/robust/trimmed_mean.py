"""The mean of each coordinate without its smallest and largest values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, final

from pydantic import Field

from silofl.robust.base import ResilientRule
from silofl.types import Vector

Trim = Annotated[float, Field(gt=0, lt=0.5)]


@final
@dataclass(frozen=True)
class TrimmedMean(ResilientRule):
    """Coordinate-wise trimmed mean (Yin et al. 2018, option II): without `f` values at each end."""

    beta: Trim | None = None
    """Which part of the values is cut off at each end, rounded down, in the place of `f` of them."""

    paper = "Yin et al. 2018"

    def refusal(self, silos: int) -> str | None:
        """See `ResilientRule`; also where `beta` leaves what `f` silos sent."""
        given = -(-silos // self.bucket)
        if self.beta is not None and int(self.beta * given) < self.f:
            return (
                f"robust.beta = {self.beta:g} cuts {int(self.beta * given)} of {given} values off at each "
                f"end, fewer than robust.f = {self.f}: raise it to {self.f / given:.3g} or more, or leave "
                "it out"
            )
        return super().refusal(silos)

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """The mean of what is left."""
        from silofl_kernels import trimmed_mean

        trimmed_mean(rows, out, trim=f if self.beta is None else int(self.beta * len(rows)))
