"""The mean of each coordinate without its smallest and largest values."""

from __future__ import annotations

import math
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
    """Which part of the values is cut off at each end, rounded down, in the place of `f` of them, which are
    the least."""

    paper = "Yin et al. 2018"

    def refusal(self, silos: int) -> str | None:
        """See `ResilientRule`; also where `beta` leaves what `f` silos sent."""
        given = -(-silos // self.bucket)
        refusal = super().refusal(silos)
        if refusal is None and self.beta is not None and part_of(self.beta, given) < self.f:
            return (
                f"robust.beta = {self.beta:g} cuts {part_of(self.beta, given)} of {given} values off at each "
                f"end, fewer than robust.f = {self.f}: raise it to {math.ceil(1e3 * self.f / given) / 1e3:g} "
                "or more, or leave it out"
            )
        return refusal

    def along(self, rows: Sequence[Vector], f: int, out: Vector) -> None:
        """The mean of what is left; of fewer silos than the run began with never less than `f` is cut off."""
        from silofl_kernels import trimmed_mean

        trimmed_mean(rows, out, trim=f if self.beta is None else max(f, part_of(self.beta, len(rows))))


def part_of(part: float, count: int) -> int:
    """A part of a count, rounded down, of a product that may be off a whole number by rounding."""
    return int(part * count + 1e-9)
